"""A Kubernetes API over HTTP for one namespace, with the requests that training needs.

Like the real API, it creates pods only some time after their Job, keeps a Job that is being deleted
until its pods are gone, refuses a second object of the same name and a deletion with another uid,
and deletes a Service together with the Job that owns it. It forbids all requests that a test has
not allowed.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[2]
_INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass
class FakeCluster:
    """The objects of the namespace, and a record of the requests.

    Args:
      allowed: the allowed requests, as pairs of verb and resource.
      fates: what happens to the next Jobs, in order: "complete", "run" (until it is deleted), or
        the exit code of worker 1.
      jobs: the Jobs by name.
      services: the Services by name.
      pods: the pods by the uid of their Job.
      created: the bodies of created Jobs and Services, in order.
      deleted: the kind, name and propagation policy of each deletion, in order.
      overlaps: the names of Jobs that were created while pods of another Job were alive.
      on_look: a function that is called whenever a client reads a Job.
      looks: how often clients have read each Job, by its uid.
    """

    allowed: set
    fates: list = field(default_factory=list)
    jobs: dict = field(default_factory=dict)
    services: dict = field(default_factory=dict)
    pods: dict = field(default_factory=dict)
    created: list = field(default_factory=list)
    deleted: list = field(default_factory=list)
    overlaps: list = field(default_factory=list)
    on_look: Callable[[FakeCluster, str], object] | None = None
    _logs: dict = field(default_factory=dict)
    looks: dict = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self, kind, body):
        """Creates a Job or a Service; returns the status and the body of the answer."""
        objects = getattr(self, kind)
        name = body["metadata"]["name"]
        if name in objects:
            return 409, {"message": "AlreadyExists"}
        body["metadata"]["uid"] = f"{kind}-{len(self.created)}"
        self.created.append(json.loads(json.dumps(body)))
        objects[name] = body
        if kind == "jobs":
            if self.pods:
                self.overlaps.append(name)
            body["fate"] = self.fates.pop(0)
        return 201, body

    def look(self, name):
        """Returns a Job, and advances it.

        Its pods appear at the first look and it ends at the third. A Job that is being deleted
        vanishes after some looks.
        """
        job = self.jobs.get(name)
        if job is None:
            return 404, {"message": "NotFound"}
        uid = job["metadata"]["uid"]
        self.looks[uid] = looks = self.looks.get(uid, 0) + 1
        if "deletionTimestamp" in job["metadata"]:
            job["grace"] -= 1
            if job["grace"] < 0:
                self._collect(name, uid)
                return 404, {"message": "NotFound"}
        elif looks == 1:
            self.pods[uid] = [self._pod(job, index) for index in range(job["spec"]["completions"])]
        elif looks == 3 and job["fate"] != "run":
            self.end(job)
        return 200, job

    def delete(self, kind, name, options):
        """Deletes a Service, or starts to delete a Job; returns status and body of the answer."""
        existing = getattr(self, kind).get(name)
        if existing is None:
            return 404, {"message": "NotFound"}
        uid = (options.get("preconditions") or {}).get("uid")
        if uid not in (None, existing["metadata"]["uid"]):
            return 409, {"message": "the UID in the precondition does not match"}
        self.deleted.append((kind, name, options.get("propagationPolicy")))
        if kind == "services":
            del self.services[name]
        else:
            existing["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
            existing["grace"] = 2
            if existing["fate"] == "run" and self.pods.get(existing["metadata"]["uid"]):
                existing["fate"] = 143
                self.end(existing)  # its workers are terminated, which the Job counts as failures
        return 200, existing

    def _collect(self, name, uid):
        """Removes a Job, its pods and its Services, as garbage collection does."""
        del self.jobs[name]
        self.pods.pop(uid, None)
        owned = [key for key, value in self.services.items() if _owner_uid(value) == uid]
        for key in owned:
            del self.services[key]

    @staticmethod
    def _pod(job, index):
        """Returns the running pod of one index of a Job."""
        template = job["spec"]["template"]
        name = job["metadata"]["name"]
        metadata = {
            "name": f"{name}-{index}-x{index}",
            "labels": {**template["metadata"]["labels"], _INDEX: str(index)},
        }
        return {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Running"}}

    def _log(self, name):
        """Returns a log that grows by one line at each request; two lines share each timestamp."""
        self._logs[name] = count = self._logs.get(name, 0) + 1
        lines = [f"2030-01-01T00:00:{line // 2:02}Z {name} says {line}\n" for line in range(count)]
        return "".join(lines)

    def end(self, job):
        """Ends the pods of a Job as its fate says, and sets the condition of the Job."""
        complete = job["fate"] == "complete"
        for index, pod in enumerate(self.pods[job["metadata"]["uid"]]):
            code = 0 if complete or index != 1 else job["fate"]
            ended = {
                "exitCode": code,
                "reason": "Completed" if not code else "Error",
                "message": "a\nthe reason\n",
            }
            status = {
                "name": "train",
                "ready": False,
                "restartCount": 0,
                "image": "i",
                "imageID": "i",
            }
            pod["status"] = {"phase": "Failed" if code else "Succeeded"}
            pod["status"]["containerStatuses"] = [{**status, "state": {"terminated": ended}}]
        rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
        refused = any(
            rule["action"] == "FailJob" and job["fate"] in rule["onExitCodes"]["values"]
            for rule in rules
        )
        reason = "" if complete else "PodFailurePolicy" if refused else "BackoffLimitExceeded"
        kind = "Complete" if complete else "Failed"
        job["status"] = {
            "conditions": [{"type": kind, "status": "True", "reason": reason, "message": ""}]
        }

    # HTTP

    def answer(self, method, path, query, body):
        """Returns the status and the body of the answer to a request."""
        with self._lock:
            parsed = re.fullmatch(
                r"/(?:api/v1|apis/batch/v1)/namespaces/ns/(\w+)(?:/([^/]+))?(?:/(\w+))?", path
            )
            assert parsed is not None, path
            kind, name, part = parsed.groups()
            resource = f"{kind}/{part}" if part else kind
            verb = {"POST": "create", "DELETE": "delete", "GET": "get" if name else "list"}[method]
            if (verb, resource) not in self.allowed:
                return 403, {"message": f"{resource} is forbidden: cannot {verb}"}
            if method == "POST":
                return self.create(kind, body)
            if method == "DELETE":
                return self.delete(kind, name, body)
            if part == "log":
                return 200, self._log(name)
            if kind == "jobs":
                if self.on_look:
                    self.on_look(self, name)
                return self.look(name)
            label, value = query["labelSelector"][0].split("=")
            pods = [pod for pods in self.pods.values() for pod in pods]
            items = [pod for pod in pods if pod["metadata"]["labels"].get(label) == value]
            return 200, {"items": items}

    def serve(self):
        """Starts and returns an HTTP server of this cluster."""
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do(self):
                """Answers a request of any method."""
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                url = urlsplit(self.path)
                code, answer = cluster.answer(self.command, url.path, parse_qs(url.query), body)
                is_text = isinstance(answer, str)
                data = (answer if is_text else json.dumps(answer)).encode()
                self.send_response(code)
                self.send_header("Content-Type", "text/plain" if is_text else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = do

            def log_message(self, *_):
                """Does nothing, because a log of requests would clutter the tests' output."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


def _owner_uid(service):
    """Returns the uid of the Job that owns a Service, or None."""
    references = service["metadata"].get("ownerReferences") or [{}]
    return references[0].get("uid")


def documented_permissions():
    """Returns the requests that docs/kubernetes.md tells an operator to allow."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    documents = yaml.safe_load_all(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    role = next(document for document in documents if document["kind"] == "Role")
    return {
        (verb, kind)
        for rule in role["rules"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Returns a FakeCluster that Airflow's default connection points to."""
    cluster = FakeCluster(documented_permissions())
    server = cluster.serve()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
        "current-context": "fake",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(path)}}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
    yield cluster
    server.shutdown()
    server.server_close()
