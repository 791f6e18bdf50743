"""A loopback Hub: what `huggingface_hub` and transformers need of its HTTP API to publish and load models.

Repositories live in memory. Binary files are uploaded by the LFS protocol; Xet is not spoken.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"


def is_lfs(content: bytes) -> bool:
    return b"\0" in content[:512]


def etag_of(content: bytes) -> str:
    """What the client compares files by: the SHA-256 of LFS files, git's id of others."""
    if is_lfs(content):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repo:
    """A repository: branches and tags that point to commits, and commits that map paths to contents."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.refs: dict[str, str] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.commit("main", {})  # the Hub's own first commit

    def commit(self, branch: str, tree: dict[str, bytes]) -> str:
        self.refs[branch] = hashlib.sha1(b"%d" % len(self.commits)).hexdigest()
        self.commits[self.refs[branch]] = tree
        return self.refs[branch]


class HubServer(ThreadingHTTPServer):
    """The server, on a free port. `intercept` is called with method and path before a request is answered."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}  # LFS files that were uploaded, by SHA-256
        self.uploads: list[str] = []  # their SHA-256 values in order
        self.intercept: Callable[[str, str], None] = lambda method, path: None

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: object) -> None:
        """Stays silent."""

    def do_GET(self) -> None:
        body, path = self.read(), unquote(urlsplit(self.path).path)
        self.server.intercept(self.command, path)
        status, content, headers = self.answer(path.strip("/").split("/"), body)
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_PUT = do_GET

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size + 2)[:-2]
        self.rfile.readline()
        return body

    def answer(self, parts: list[str], body: bytes) -> tuple[int, object, dict[str, str]]:
        """Returns status, content and headers."""
        if self.command == "PUT":  # an LFS file
            oid = hashlib.sha256(body).hexdigest()
            self.server.uploads.append(oid)
            self.server.storage[oid] = body
            return 200 if parts == ["lfs", oid] else 400, b"", {}
        write = self.command == "POST"
        if write and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}, {}
        values = [json.loads(line) for line in body.splitlines()] if write else []
        match parts:
            case ["api", "validate-yaml"]:
                return 200, {}, {}
            case ["api", "repos", "create"]:
                name = f"{values[0]['organization']}/{values[0]['name']}"
                self.server.repos.setdefault(name, Repo(values[0].get("visibility") == "private"))
                return 200, {"url": f"{self.server.url}/{name}"}, {}
            case [_, _, "info", "lfs", "objects", "batch"]:
                wanted = [item for item in values[0]["objects"] if item["oid"] not in self.server.storage]
                for item in wanted:
                    item["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}}
                return 200, {"transfer": "basic", "objects": values[0]["objects"]}, {}
            case ["api", "models", owner, name, *rest] | [owner, name, *rest] if f"{owner}/{name}" in self.server.repos:
                return self.answer_of(self.server.repos[f"{owner}/{name}"], f"{owner}/{name}", rest, values)
        return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}

    def answer_of(
        self, repo: Repo, name: str, parts: list[str], values: list[dict]
    ) -> tuple[int, object, dict[str, str]]:
        verb, revision, *path = *parts, *["", "main"][len(parts) :]
        sha = repo.refs.get(revision, revision)
        tree = repo.commits.get(sha) if verb not in ("branch", "tag") else {}
        match verb:
            case "branch":
                repo.refs[revision] = repo.refs["main"]
                return 200, {}, {}
            case "tag":
                repo.refs[values[0]["tag"]] = sha
                return 200, {}, {}
            case "preupload":
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if is_lfs(base64.b64decode(file["sample"])) else "regular",
                        "shouldIgnore": False,
                        **({"oid": etag_of(tree[file["path"]])} if file["path"] in tree else {}),
                    }
                    for file in values[0]["files"]
                ]
                return 200, {"files": files, "commitOid": sha}, {}
            case "commit":
                tree = dict(tree)
                for line in values:
                    key, value = line["key"], line["value"]
                    if key == "file":
                        tree[value["path"]] = base64.b64decode(value["content"])
                    elif key == "lfsFile":
                        tree[value["path"]] = self.server.storage[value["oid"]]
                    elif key == "deletedFile":
                        del tree[value["path"]]
                sha = repo.commit(revision, tree)
                return 200, {"commitOid": sha, "commitUrl": f"{self.server.url}/{name}/commit/{sha}"}, {}
            case "tree":
                files = [{"type": "file", "path": path, "oid": "", "size": len(tree[path])} for path in tree]
                return 200, files, {}
            case "" | "revision":
                siblings = [{"rfilename": path} for path in tree]
                return 200, {"id": name, "sha": sha, "private": repo.private, "tags": [], "siblings": siblings}, {}
        headers = {"X-Repo-Commit": sha}  # verb is resolve
        content = tree.get("/".join(path))
        if content is None:
            return 404, b"Entry not found", {**headers, "X-Error-Code": "EntryNotFound"}
        return 200, content, {**headers, "ETag": f'"{etag_of(content)}"'}
