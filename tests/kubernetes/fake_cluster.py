"""A Kubernetes API of one namespace over HTTP: as much of it as a training's Job meets.

Like the real one it creates pods only some time after their Job, keeps a Job that is being deleted until its
pods are gone, refuses a name that is taken and a deletion that means another uid, and deletes a Service with
the Job that owns it. What it was not told to allow is forbidden.
"""

from __future__ import annotations

import json
import re
import threading
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
    """What is there, and what was asked.

    Args:
      allowed: what may be asked, as pairs of verb and resource.
      fates: of the Jobs to come, in order: "complete", "run" (until it is deleted), or the exit code of worker 1.
    """

    allowed: set  # (verb, resource)
    fates: list = field(default_factory=list)
    jobs: dict = field(default_factory=dict)
    services: dict = field(default_factory=dict)
    pods: dict = field(default_factory=dict)  # by the uid of their Job
    created: list = field(default_factory=list)  # bodies of Jobs, then of Services, as they came
    deleted: list = field(default_factory=list)
    overlaps: list = field(default_factory=list)  # Jobs created while another's pods were alive
    on_look: object = None  # called at every look at a Job
    _logs: dict = field(default_factory=dict)
    _looks: dict = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self, kind, body):
        things, name = getattr(self, kind), body["metadata"]["name"]
        if name in things:
            return 409, {"message": "AlreadyExists"}
        body["metadata"]["uid"] = f"{kind}-{len(self.created)}"
        self.created.append(json.loads(json.dumps(body)))
        things[name] = body
        if kind == "jobs":
            if self.pods:
                self.overlaps.append(name)
            body["fate"] = self.fates.pop(0)
        return 201, body

    def look(self, name):
        """A Job, one look later: pods appear at the first, it ends at the third; one being deleted is gone."""
        job = self.jobs.get(name)
        if job is None:
            return 404, {"message": "NotFound"}
        uid = job["metadata"]["uid"]
        self._looks[uid] = looks = self._looks.get(uid, 0) + 1
        if "deletionTimestamp" in job["metadata"]:
            job["grace"] -= 1
            if job["grace"] < 0:
                self._collect(name, uid)
                return 404, {"message": "NotFound"}
        elif looks == 1:
            self.pods[uid] = [self._pod(job, index) for index in range(job["spec"]["completions"])]
        elif looks == 3 and job["fate"] != "run":
            self._end(job)
        return 200, job

    def delete(self, kind, name, options):
        thing = getattr(self, kind).get(name)
        if thing is None:
            return 404, {"message": "NotFound"}
        uid = (options.get("preconditions") or {}).get("uid")
        if uid not in (None, thing["metadata"]["uid"]):
            return 409, {"message": "the UID in the precondition does not match"}
        self.deleted.append((kind, name, options.get("propagationPolicy")))
        if kind == "services":
            del self.services[name]
        else:
            thing["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
            thing["grace"] = 2
            if thing["fate"] == "run" and self.pods.get(thing["metadata"]["uid"]):
                thing["fate"] = 143
                self._end(thing)  # its workers are asked to end, which the Job counts as failures
        return 200, thing

    def _collect(self, name, uid):
        del self.jobs[name]
        self.pods.pop(uid, None)
        owned = [key for key, value in self.services.items() if _owner(value) == uid]
        for key in owned:
            del self.services[key]

    @staticmethod
    def _pod(job, index):
        template, name = job["spec"]["template"], job["metadata"]["name"]
        metadata = {
            "name": f"{name}-{index}-x{index}",
            "labels": {**template["metadata"]["labels"], _INDEX: str(index)},
        }
        return {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Running"}}

    def _log(self, name):
        """One line more at each reading; those of one write have one time."""
        self._logs[name] = seen = self._logs.get(name, 0) + 1
        lines = [f"2030-01-01T00:00:{line // 2:02}Z {name} says {line}\n" for line in range(seen)]
        return "".join(lines)

    def _end(self, job):
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
        with self._lock:
            kind, name, part = re.fullmatch(
                r"/(?:api/v1|apis/batch/v1)/namespaces/ns/(\w+)(?:/([^/]+))?(?:/(\w+))?", path
            ).groups()
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
            wanted = query["labelSelector"][0].split("=")
            pods = [pod for pods in self.pods.values() for pod in pods]
            return 200, {
                "items": [
                    pod for pod in pods if pod["metadata"]["labels"].get(wanted[0]) == wanted[1]
                ]
            }

    def serve(self):
        """A server that answers for this cluster."""
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                url = urlsplit(self.path)
                code, said = cluster.answer(self.command, url.path, parse_qs(url.query), body)
                data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                self.send_response(code)
                self.send_header(
                    "Content-Type", "text/plain" if isinstance(said, str) else "application/json"
                )
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = do

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


def _owner(thing):
    references = thing["metadata"].get("ownerReferences") or [{}]
    return references[0].get("uid")


def documented_rights():
    """What docs/kubernetes.md has an operator allow."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    documents = yaml.safe_load_all(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    role = next(document for document in documents if document["kind"] == "Role")
    return {
        (verb, kind)
        for rule in role["rules"]
        for kind in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    cluster = FakeCluster(documented_rights())
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
