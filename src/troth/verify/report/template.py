"""The page's HTML, style and script. `page.py` puts the data in."""

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>troth verify</title>
<style>
:root { --ok: #3f7d58; --fail: #9a8f80; --info: #b98a2f; --bad: #c0312b; --line: #d8d3ca; --ink: #26241f; }
* { box-sizing: border-box; }
body { font: 14px/1.45 system-ui, sans-serif; color: var(--ink); background: #fbfaf7; margin: 0; }
header, section { padding: 12px 20px; }
h1 { font-size: 18px; margin: 0 0 4px; }
h2 { font-size: 15px; margin: 12px 0 4px; }
.status { display: inline-block; padding: 1px 9px; border-radius: 10px; color: #fff; text-transform: uppercase; }
.status.ok { background: var(--ok); } .status.illegal { background: var(--bad); }
.status.unknown { background: var(--info); }
.note { color: #6b665c; }
code { font: 12px ui-monospace, monospace; background: #efece5; padding: 1px 4px; border-radius: 3px; }
button { font: inherit; padding: 2px 10px; border: 1px solid var(--line); border-radius: 4px; background: #fff; }
button:hover { background: #efece5; cursor: pointer; }
svg text { pointer-events: none; }
#whole svg text, .card > svg text { font: 11px ui-monospace, monospace; }
.bar { stroke: #fff; stroke-width: 1; cursor: pointer; }
.bar.ok { fill: #a9cdb7; } .bar.fail { fill: #d5cec3; } .bar.info { fill: #ecd9ab; }
.bar.near { stroke: var(--ink); stroke-width: 1.5; }
.bar.bad { fill: var(--bad); }
.bar.dim { opacity: .35; }
.bar.pinned { stroke: #1d4f91; stroke-width: 2.5; }
.band { fill: #c0312b; opacity: .08; }
.path { fill: none; stroke: #1d4f91; stroke-width: 1.5; opacity: .75; }
.dot { fill: #1d4f91; }
.bar.small { stroke: var(--bad); stroke-width: 2; }
#whole { display: flex; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); background: #fff; }
#names { flex: none; border-right: 1px solid var(--line); background: #fbfaf7; }
#frame { overflow-x: auto; flex: 1; }
.legend span { display: inline-block; margin-right: 14px; }
.legend i { display: inline-block; width: 22px; height: 11px; border-radius: 3px; margin-right: 5px;
  vertical-align: -1px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 8px 14px; margin: 8px 0;
  overflow-x: auto; }
.because { max-width: 72em; margin: 2px 0; }
#tip { position: fixed; max-width: 460px; background: #26241f; color: #fbfaf7; padding: 8px 10px; border-radius: 5px;
  font-size: 12px; display: none; pointer-events: none; white-space: pre-wrap; overflow-wrap: anywhere; z-index: 2; }
table { border-collapse: collapse; } td, th { border: 1px solid var(--line); padding: 2px 8px; text-align: left;
  vertical-align: top; font-size: 12px; overflow-wrap: anywhere; }
</style>
</head>
<body>
<header>
  <h1><span id="status" class="status"></span> <span id="title"></span></h1>
  <div id="headline"></div><div id="reason"></div><div id="notes" class="note"></div>
</header>
<section id="short"></section>
<section>
  <h2>The history</h2>
  <p><button id="jump">Jump to the first error</button> <button id="all">Show the whole order</button>
  <span class="note" id="hint"></span></p>
  <p class="legend note">
    <span><i style="background:#a9cdb7"></i>ok</span><span><i style="background:#d5cec3"></i>failed</span>
    <span><i style="background:#ecd9ab;border:1px dashed #b98a2f"></i>outcome unknown: open to the end</span>
    <span><i style="background:#c0312b"></i>cannot be placed</span>
    <span><i style="background:#fff;border:2px solid #c0312b"></i>in the smallest illegal part</span>
    <span><i style="background:#c0312b;opacity:.15"></i>fault</span></p>
</section>
<div id="whole"><div id="names"></div><div id="frame"></div></div>
<section id="details"></section>
<div id="tip"></div>
<script>
"use strict";
const data = /*DATA*/null;
const $ = id => document.getElementById(id);
const svgNS = "http://www.w3.org/2000/svg";
const STEP = Math.max(16, Math.min(90, 1100 / Math.max(1, data.width)));
const ROW = 30, LEFT = 12, TOP = 40;
function make(name, attributes, parent, text) {
  const node = document.createElementNS(svgNS, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}
function add(parent, name, text, className) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  parent.appendChild(node);
  return node;
}
const x = position => LEFT + position * STEP;
const y = lane => TOP + lane * ROW;
$("status").textContent = data.status;
$("status").classList.add(data.status);
$("title").textContent = data.title;
$("headline").textContent = data.headline;
$("reason").textContent = data.reason;
$("notes").textContent = ["read as: " + data.reading, data.algorithms.join(", "), data.anomalies.join(", "), data.cut]
  .filter(part => part).join(" · ");
$("hint").textContent = byHand("Hover over a bar for its place in " + data.order
  + " and the states on the way; click to keep it, then ← and → go through the order.");
function byHand(text) { return data.bars.some(bar => bar.rank) ? text : "Hover over a bar for what it asked and got."; }

// What an engineer wants first: why, in as few operations as possible.
const short = $("short");
if (data.bad !== null || data.why) {
  add(short, "h2", "Why");
  const bad = data.minimal.find(row => row.bad) || data.bars.find(bar => bar.bad);
  if (bad) add(short, "p", "[" + bad.i + "] " + bad.text + " cannot be placed: " + data.why, "because");
  else add(short, "p", data.why, "because");
}
if (data.minimal.length) {
  add(short, "h2", "The smallest illegal part: " + data.minimal.length + " of " + data.size
    + " operations; no order of these alone is legal");
  const card = add(short, "div", undefined, "card");
  const columns = Math.max(...data.minimal.map(row => row.to));
  const step = Math.max(14, Math.min(60, 640 / columns)), textAt = 20 + columns * step + 24;
  const longest = Math.max(...data.minimal.map(row => row.text.length));
  const picture = make("svg", { width: textAt + longest * 6.9 + 60, height: 26 * data.minimal.length + 8 }, card);
  data.minimal.forEach((row, at) => {
    const left = 10 + row.from * step, top = 4 + 26 * at, right = row.open ? textAt - 12 : 10 + row.to * step;
    make("line", { x1: 0, x2: textAt + longest * 6.9 + 60, y1: top + 23, y2: top + 23, stroke: "#f1ede5" }, picture);
    const node = make("rect", { class: "bar " + row.kind + (row.bad ? " bad" : ""), x: left, y: top,
      width: Math.max(6, right - left), height: 19, rx: 3 }, picture);
    if (row.open) { node.setAttribute("stroke-dasharray", "4 3"); node.style.stroke = "#b98a2f"; }
    const ink = row.bad ? "#c0312b" : "#26241f";
    make("text", { x: textAt, y: top + 14, fill: ink }, picture, "[" + row.i + "] " + row.text);
    node.addEventListener("click", () => {
      const bar = data.bars.find(candidate => candidate.i === row.i);
      if (bar) { show(bar); if (pinned !== bar) pin(bar); }
    });
  });
}
data.cycles.forEach((cycle, at) => {
  add(short, "h2", cycle.name + (cycle.steps ? ": a cycle" : ""));
  const card = add(short, "div", undefined, "card");
  const drawing = add(card, "div");
  drawing.innerHTML = cycle.svg;
  cycle.lines.forEach((line, number) =>
    add(card, "div", "T" + (number + 1) + " = [" + cycle.transactions[number] + "] " + line, "because"));
  const list = add(card, "ul");
  cycle.sentences.forEach(sentence => add(list, "li", sentence, "because"));
});
if (data.ruled.length) {
  add(short, "h2", "What that rules out");
  data.ruled.forEach(line => add(short, "p", line, "because"));
}

const width = x(data.width) + 40, height = y(data.lanes.length) + 20;
const svg = make("svg", { width: width, height: height });
$("frame").appendChild(svg);
const names = make("svg", { width: 116, height: height });
$("names").appendChild(names);
// A ruler: positions in the history, which is what the order of events is about.
const every = [5, 10, 20, 50, 100, 200].find(size => size * STEP >= 90) || 500;
for (let at = Math.ceil(data.low / every) * every; at <= data.low + data.width; at += every) {
  make("line", { x1: x(at - data.low), x2: x(at - data.low), y1: 20, y2: height, stroke: "#f1ede5" }, svg);
  make("text", { x: x(at - data.low) + 2, y: 30, fill: "#a39c8f" }, svg, "event " + at);
}
for (const band of data.faults) {
  const rect = make("rect", { class: "band", x: x(band.from), y: 0, width: Math.max(4, x(band.to) - x(band.from)),
    height: height }, svg);
  make("title", {}, rect, band.text);
  make("text", { x: x(band.from) + 3, y: 12, fill: "#c0312b" }, svg, band.text.slice(0, 60));
}
data.lanes.forEach((name, lane) => {
  make("line", { x1: 0, x2: width, y1: y(lane) + ROW - 4, y2: y(lane) + ROW - 4, stroke: "#eee9df" }, svg);
  make("text", { x: 6, y: y(lane) + 16, fill: "#6b665c" }, names,
    "process " + (name.length > 8 ? name.slice(0, 7) + "…" : name));
});
const byRank = data.bars.filter(bar => bar.rank).sort((a, b) => a.rank - b.rank);
for (const bar of data.bars) {
  const left = x(bar.from), right = Math.max(left + STEP - 3, x(bar.to));
  const role = bar.bad ? " bad" : !bar.near ? "" : data.minimal.length ? " small" : " near";
  bar.node = make("rect", { class: "bar " + bar.kind + role, x: left, y: y(bar.lane), rx: 3,
    width: right - left, height: ROW - 9, tabindex: 0 }, svg);
  if (bar.kind === "info") bar.node.setAttribute("stroke-dasharray", "4 3"), bar.node.style.stroke = "#b98a2f";
  const room = Math.floor((right - left - 6) / 6.7);
  if (room > 1) make("text", { x: left + 3, y: y(bar.lane) + 14, fill: bar.bad ? "#fff" : "#26241f" }, svg,
    bar.label.length > room ? bar.label.slice(0, room - 1) + "…" : bar.label);
  bar.node.addEventListener("mousemove", event => { if (!pinned) draw(bar.rank); tip(bar, event); });
  bar.node.addEventListener("mouseleave", () => { $("tip").style.display = "none"; if (!pinned) draw(0); });
  bar.node.addEventListener("click", () => pin(bar));
}
const overlay = make("g", { "pointer-events": "none" }, svg);
let pinned = null;
function tip(bar, event) {
  const lines = ["[" + bar.i + "] " + bar.text];
  if (bar.bad) lines.push("cannot be placed: " + data.why);
  if (bar.rank) lines.push("number " + bar.rank + " in " + data.order);
  if (bar.after) lines.push("state " + bar.before + " → " + bar.after);
  if (bar.time) lines.push(bar.time);
  $("tip").textContent = lines.join("\\n");
  $("tip").style.display = "block";
  $("tip").style.left = Math.min(event.clientX + 14, innerWidth - 470) + "px";
  $("tip").style.top = Math.min(event.clientY + 14, innerHeight - 120) + "px";
}
function draw(upTo) {
  overlay.textContent = "";
  for (const bar of data.bars) bar.node.classList.toggle("dim", upTo > 0 && (!bar.rank || bar.rank > upTo) && !bar.bad);
  if (!upTo) return;
  // Instants never go back: each placement is drawn at the earliest one its bar and those before it allow.
  let at = 0;
  const first = Math.max(0, upTo - 60), points = [];
  byRank.forEach(bar => {
    if (bar.rank > upTo) return;
    at = Math.max(at + 2, x(bar.from) + 4);
    if (bar.kind !== "info") at = Math.min(at, Math.max(x(bar.from) + 2, x(bar.to) - 2));
    if (bar.rank > first) points.push([at, y(bar.lane) + (ROW - 9) / 2, bar]);
  });
  make("polyline", { class: "path", points: points.map(p => p[0] + "," + p[1]).join(" ") }, overlay);
  points.forEach(([px, py, bar]) => {
    make("circle", { class: "dot", cx: px, cy: py, r: 3 }, overlay);
    const label = bar.rank + (bar.after ? ": " + bar.after.slice(0, 18) : "");
    make("text", { x: px + 3, y: py - 12, fill: "#1d4f91" }, overlay, label);
  });
}
function pin(bar) {
  if (pinned) pinned.node.classList.remove("pinned");
  pinned = pinned === bar ? null : bar;
  if (pinned) pinned.node.classList.add("pinned");
  draw(pinned ? pinned.rank : 0);
}
function show(bar) {
  $("whole").scrollIntoView({ block: "center" });
  $("frame").scrollLeft = x(bar.from) - $("frame").clientWidth / 2;
}
const firstBad = data.bars.find(bar => bar.bad) || data.bars.find(bar => bar.near && data.status === "illegal");
$("jump").disabled = !firstBad;
$("all").disabled = !byRank.length;
$("jump").addEventListener("click", () => {
  show(firstBad);
  if (pinned !== firstBad) pin(firstBad);
  if (!firstBad.rank) draw(byRank.length ? byRank[byRank.length - 1].rank : 0);
});
addEventListener("keydown", event => {
  const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape" && pinned) pin(pinned);
  if (!move || !pinned || !byRank.length) return;
  const at = pinned.rank ? byRank.indexOf(pinned) + move : byRank.length - 1;
  if (!byRank[at]) return;
  event.preventDefault();
  pin(byRank[at]);
  const box = pinned.node.getBoundingClientRect();
  tip(pinned, { clientX: box.left, clientY: box.bottom });
});
if (firstBad) $("frame").scrollLeft = x(firstBad.from) - $("frame").clientWidth / 2;
$("all").addEventListener("click", () => draw(byRank.length ? byRank[byRank.length - 1].rank : 0));

const details = $("details");
function table(title, head, rows) {
  if (!rows.length) return;
  add(details, "h2", title);
  const element = add(details, "table"), top = add(element, "tr");
  head.forEach(cell => add(top, "th", cell));
  rows.forEach(row => { const line = add(element, "tr"); row.forEach(cell => add(line, "td", cell)); });
}
table("What was possible when it returned", ["state", "open, placed already", "open, not placed"],
  data.configurations.map(c => [c.state, c.placed.join("; "), c.waiting.join("; ")]));
table("Parts", ["key", "verdict", "decided by", "events"],
  data.parts.map(part => [part.key, part.status, part.algorithm, String(part.events)]));
if (data.command) { add(details, "h2", "To see it again"); add(details, "code", data.command); }
</script>
</body>
</html>
"""
