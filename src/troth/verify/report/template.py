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
#frame { overflow-x: auto; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); background: #fff; }
svg text { font: 11px ui-monospace, monospace; pointer-events: none; }
.bar { stroke: #fff; stroke-width: 1; cursor: pointer; }
.bar.ok { fill: #a9cdb7; } .bar.fail { fill: #d5cec3; } .bar.info { fill: #ecd9ab; }
.bar.near { stroke: var(--ink); stroke-width: 1.5; }
.bar.bad { fill: var(--bad); }
.bar.dim { opacity: .35; }
.bar.pinned { stroke: #1d4f91; stroke-width: 2.5; }
.band { fill: #c0312b; opacity: .08; }
.path { fill: none; stroke: #1d4f91; stroke-width: 1.5; opacity: .75; }
.dot { fill: #1d4f91; }
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
  <p><button id="jump">Jump to the first error</button> <button id="all">Show the whole order</button>
  <span class="note" id="hint"></span></p>
</header>
<div id="frame"></div>
<section id="details"></section>
<div id="tip"></div>
<script>
"use strict";
const data = /*DATA*/null;
const $ = id => document.getElementById(id);
const svgNS = "http://www.w3.org/2000/svg";
const STEP = 16, ROW = 30, LEFT = 110, TOP = 26;
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
$("reason").textContent = data.reason || data.why;
$("notes").textContent = ["read as: " + data.reading, data.algorithms.join(", "), data.anomalies.join(", "), data.cut]
  .filter(part => part).join(" · ");
$("hint").textContent = "Hover over a bar for its place in " + data.order + "; click to keep it.";

const width = x(data.width) + 40, height = y(data.lanes.length) + 20;
const svg = make("svg", { width: width, height: height });
$("frame").appendChild(svg);
for (const band of data.faults) {
  const rect = make("rect", { class: "band", x: x(band.from), y: 0, width: Math.max(4, x(band.to) - x(band.from)),
    height: height }, svg);
  make("title", {}, rect, band.text);
  make("text", { x: x(band.from) + 3, y: 12, fill: "#c0312b" }, svg, band.text.slice(0, 60));
}
data.lanes.forEach((name, lane) => {
  make("line", { x1: 0, x2: width, y1: y(lane) + ROW - 4, y2: y(lane) + ROW - 4, stroke: "#eee9df" }, svg);
  make("text", { x: 6, y: y(lane) + 16, fill: "#6b665c" }, svg,
    "process " + (name.length > 8 ? name.slice(0, 7) + "…" : name));
});
const byRank = data.bars.filter(bar => bar.rank).sort((a, b) => a.rank - b.rank);
for (const bar of data.bars) {
  const left = x(bar.from), right = Math.max(left + STEP - 3, x(bar.to));
  bar.node = make("rect", { class: "bar " + bar.kind + (bar.bad ? " bad" : bar.near ? " near" : ""), x: left,
    y: y(bar.lane), rx: 3, width: right - left, height: ROW - 9, tabindex: 0 }, svg);
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
$("jump").disabled = data.bad === null;
$("jump").addEventListener("click", () => {
  const bar = data.bars.find(candidate => candidate.bad);
  if (!bar) return;
  $("frame").scrollLeft = x(bar.from) - innerWidth / 2;
  pin(bar);
  draw(byRank.length ? byRank[byRank.length - 1].rank : 0);
});
$("all").addEventListener("click", () => draw(byRank.length ? byRank[byRank.length - 1].rank : 0));

const details = $("details");
if (data.bad !== null) {
  add(details, "h2", "Why");
  add(details, "p", "[" + data.bad + "] " + (data.bars.find(bar => bar.bad) || { text: "" }).text + ": " + data.why);
}
if (data.cycle.length) {
  add(details, "h2", "The cycle");
  const list = add(details, "ol");
  data.cycle.forEach(step => add(list, "li", step));
}
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
