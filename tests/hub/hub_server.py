"""A loopback Hub: the part of the Hub's HTTP API by which `huggingface_hub` and transformers publish and load models.

Repositories live in memory: branches and tags that point to commits, commits that map paths to contents. What it says
and how is the Hub's: `ETag`, `X-Repo-Commit` and `X-Linked-*` headers, error codes in `X-Error-Code`, git and SHA-256
object ids, binary files by the LFS batch protocol and out of a redirected download. Xet is not spoken; clients that are
not offered it, or have it switched off, use LFS.

No package serves this part of the API: `olah` mirrors downloads of a real Hub and takes no uploads, and the wheel of
`hf-local-hub` lacks its server.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from huggingface_hub import ModelCard

TOKEN = "hf_loopback"


class HubError(Exception):
    """An answer that is no success; the client tells its exceptions apart by the code."""

    def __init__(self, status: int, message: str, code: str = "", **body: str):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body = {"error": message, **body}


@dataclass(frozen=True)
class Blob:
    """The contents of a file."""

    content: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """The id that git gives the file: of an LFS file, that of its pointer."""
        content = self.content
        if self.lfs:
            lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(content)}")
            content = "".join(f"{line}\n" for line in lines).encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Repo:
    """A repository; the first commit of `main` holds nothing."""

    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, tree: dict[str, Blob], summary: str) -> str:
        contents = [(path, blob.oid) for path, blob in sorted(tree.items())]
        parent = self.branches.get(branch)
        sha = hashlib.sha1(json.dumps([len(self.commits), parent, summary, contents]).encode()).hexdigest()
        self.commits[sha] = tree
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str:
        """The commit that a branch, a tag or a commit id names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha


class HubServer:
    """The server, on a free port of the loopback interface.

    Attributes:
        repos: By id.
        storage: Contents of LFS files that were uploaded, by SHA-256.
        requests: Method and path of all requests so far.
        intercept: Called with method and path of each request before it is answered; may raise `HubError`, or block.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.intercept: Callable[[str, str], None] = lambda method, path: None
        self.lock = threading.RLock()
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    @property
    def storage_url(self) -> str:
        """Where large files come from: another host, as for the Hub, so that clients do not take it for the Hub."""
        return f"http://localhost:{self._http.server_port}"

    def uploads(self) -> list[str]:
        """The ids of LFS objects sent so far, in order."""
        return [path.removeprefix("/lfs/") for method, path in self.requests if method == "PUT"]


_REPO = r"(?P<name>[\w.-]+/[\w.-]+)"
_ROUTES = [
    (method, re.compile(pattern), answer)
    for method, pattern, answer in [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", rf"/api/models/{_REPO}/branch/(?P<revision>[^/]+)", "branch"),
        ("POST", rf"/api/models/{_REPO}/tag/(?P<revision>[^/]+)", "tag"),
        ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)/?(?P<path>.*)", "tree"),
        ("GET", rf"/api/models/{_REPO}(?:/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", r"/lfs/verify", "lfs_verify"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("GET", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_get"),
        ("GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]
]


class _Handler(BaseHTTPRequestHandler):
    """HTTP around the hub: reads the request, finds its route, writes the answer."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stays silent."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        self.body = self._read()
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        try:
            self.hub.intercept(self.command, path)
            method = "GET" if self.command == "HEAD" else self.command
            for verb, pattern, answer in _ROUTES:
                if verb == method and (match := pattern.fullmatch(path)):
                    groups = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    with self.hub.lock:
                        getattr(self, f"_{answer}")(**groups)
                    return
            raise HubError(404, f"there is no {method} {path}")
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self._send(json.dumps(error.body).encode(), error.status, headers)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    @property
    def _authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repo(self, name: str, write: bool = False) -> Repo:
        if write and not self._authorized:
            raise HubError(401, "Invalid username or password.")
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._authorized):
            raise HubError(404 if self._authorized else 401, "Repository not found", "RepoNotFound")
        return repo

    def _whoami(self) -> None:
        if not self._authorized:
            raise HubError(401, "Invalid username or password.")
        self._json({"type": "user", "name": "user", "orgs": [{"name": "org"}]})

    def _create(self) -> None:
        body = json.loads(self.body)
        if not self._authorized:
            raise HubError(401, "Invalid username or password.")
        name = f"{body.get('organization') or 'user'}/{body['name']}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            raise HubError(409, "You already created this model repo", url=url)
        self.hub.repos[name] = Repo(private=body.get("visibility") == "private")
        self._json({"url": url, "name": name, "id": name})

    def _validate(self) -> None:
        ModelCard(json.loads(self.body)["content"])
        self._json({"errors": [], "warnings": []})

    def _preupload(self, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        tree = repo.commits[repo.resolve(revision)]

        def describe(file: dict) -> dict:
            sample = base64.b64decode(file["sample"])
            mode = "lfs" if b"\0" in sample or file["size"] > 10_000_000 else "regular"
            known = {"oid": tree[file["path"]].etag} if file["path"] in tree else {}
            return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known}

        files = [describe(file) for file in json.loads(self.body)["files"]]
        self._json({"files": files, "commitOid": repo.resolve(revision)})

    def _commit(self, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        if revision not in repo.branches:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        tree, summary = dict(repo.commits[repo.branches[revision]]), ""
        for line in map(json.loads, self.body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                summary = value["summary"]
                if value.get("parentCommit", repo.branches[revision]) != repo.branches[revision]:
                    raise HubError(412, "A commit has happened since.")
            elif key == "file":
                tree[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.hub.storage:
                    raise HubError(400, f"{value['path']} was not uploaded")
                tree[value["path"]] = Blob(self.hub.storage[value["oid"]], lfs=True)
            elif key == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise HubError(400, f"unknown key {key}")
        sha = repo.commit(revision, tree, summary)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _branch(self, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        if revision in repo.branches:
            raise HubError(409, "Reference already exists")
        repo.branches[revision] = repo.resolve(json.loads(self.body or b"{}").get("startingPoint", "main"))
        self._json({})

    def _tag(self, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        repo.tags[json.loads(self.body)["tag"]] = repo.resolve(revision)
        self._json({})

    def _tree(self, name: str, revision: str, path: str) -> None:
        repo, entries = self._repo(name), []
        prefix = f"{path}/" if path else ""
        for file, blob in sorted(repo.commits[repo.resolve(revision)].items()):
            if file.startswith(prefix):
                entry = {"type": "file", "path": file, "oid": blob.oid, "size": len(blob.content)}
                if blob.lfs:
                    entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
                entries.append(entry)
        if path and not entries:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        self._json(entries)

    def _info(self, name: str, revision: str = "main") -> None:
        repo = self._repo(name)
        sha = repo.resolve(revision)
        tree = repo.commits[sha]
        info = {
            **{"_id": hashlib.sha1(name.encode()).hexdigest()[:24], "id": name, "modelId": name, "sha": sha},
            **{"private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []},
            **{"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"},
            "siblings": [{"rfilename": path} for path in sorted(tree)],
        }
        if "README.md" in tree:
            data = ModelCard(tree["README.md"].content.decode()).data
            info |= {"tags": data.tags or [], "pipeline_tag": data.pipeline_tag, "library_name": data.library_name}
        self._json(info)

    def _lfs_batch(self, name: str) -> None:
        self._repo(name, write=True)

        def action(item: dict) -> dict:
            if item["oid"] in self.hub.storage:
                return item
            upload = {"href": f"{self.hub.storage_url}/lfs/{item['oid']}", "header": {}}
            return {**item, "actions": {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify"}}}

        self._json({"transfer": "basic", "objects": [action(item) for item in json.loads(self.body)["objects"]]})

    def _lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "the content has another SHA-256")
        self.hub.storage[oid] = self.body
        self._send(b"", headers={"ETag": f'"{oid}"'})

    def _lfs_get(self, oid: str) -> None:
        self._send(self.hub.storage[oid])

    def _lfs_verify(self) -> None:
        item = json.loads(self.body)
        if len(self.hub.storage.get(item["oid"], b"")) != item["size"]:
            raise HubError(404, "no such object")
        self._json({})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name)
        sha = repo.resolve(revision)
        blob = repo.commits[sha].get(path)
        if blob is None:
            headers = {"X-Repo-Commit": sha, "X-Error-Code": "EntryNotFound"}
            return self._send(b"Entry not found", 404, headers)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"'}
        if not blob.lfs:
            return self._send(blob.content, headers=headers)
        linked = {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        return self._send(b"", 302, {**headers, **linked, "Location": f"{self.hub.storage_url}/lfs/{blob.sha256}"})
