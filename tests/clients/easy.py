"""kr8s, an asynchronous client that discovers everything and speaks to the API directly."""
import asyncio
import kr8s
from kr8s.asyncio.objects import ConfigMap, Pod, new_class

async def main():
    api = await kr8s.asyncio.api()
    version = await api.version()
    assert version["minor"] == "37", version
    map = await ConfigMap({"metadata": {"name": "easy", "namespace": "default", "labels": {"app": "easy"}}, "data": {"a": "1"}})
    await map.create()
    await map.patch({"data": {"a": "2"}})
    await map.label({"more": "yes"})
    await map.annotate({"example.com/note": "seen"})
    await map.refresh()
    assert map.data["a"] == "2" and map.labels["more"] == "yes" and map.annotations["example.com/note"] == "seen"
    found = [m.name async for m in api.get("configmaps", namespace="default", label_selector={"app": "easy"})]
    assert found == ["easy"], found
    pod = await Pod({"metadata": {"name": "easy", "namespace": "default"},
                     "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": "nginx"}]}})
    await pod.create()
    await pod.wait("condition=Ready", timeout=60)
    assert await pod.ready()
    ran = await pod.exec(["sh", "-c", "echo out; echo err >&2"])
    assert ran.stdout.strip() == b"out" and ran.stderr.strip() == b"err", ran
    async with pod.portforward(80) as port:
        import httpx
        async with httpx.AsyncClient() as http:
            page = await http.get(f"http://127.0.0.1:{port}/")
            assert page.status_code == 200 and "nginx" in page.text.lower(), page
    await pod.delete()
    await pod.wait("delete", timeout=60)
    await map.delete()
    assert not await map.exists()
    print("kr8s: good")

asyncio.run(main())
