"""A cluster inside a program: three server processes that live as long as the block.

``transport="pipe"`` opens no port: servers talk over inherited sockets, the client over unix sockets.
"""

import tempfile

import troth

with tempfile.TemporaryDirectory() as directory:
    with troth.LocalCluster(3, transport="pipe", data_dir=directory) as cluster, cluster.connect() as client:
        client.put("greeting", "hello")
        for status in client.status():
            print(f"{status.name}: {status.role}, term {status.term}, revision {status.revision}")

    # The data is still there when the cluster comes back.
    with troth.LocalCluster(data_dir=directory, transport="pipe") as cluster, cluster.connect() as client:
        answer = client.get("greeting")
        print("after a restart of all servers:", answer.value)
        assert answer.value == b"hello"
