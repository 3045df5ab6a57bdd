//! The sample component as an image, made from a local tarball: no registry is asked. Also a few raw calls to Docker,
//! which share no code with what is tested.
//!
//! The image goes with the last test that uses it; one that a killed test run left is removed by the next.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::print_stdout, reason = "each test file uses its part")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;

/// On all images of tests; the value is the process id of the test run.
const LABEL: &str = "maelstrom.test.pid";

/// Set to 1 where Docker has to be there: tests fail without it then.
const MUST: &str = "MAELSTROM_TEST_DOCKER";

/// Where Docker listens.
pub fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").ok();
    host.and_then(|host| host.strip_prefix("unix://").map(PathBuf::from))
        .unwrap_or_else(|| "/var/run/docker.sock".into())
}

/// One call over a connection of its own: status and body.
pub fn call(method: &str, path: &str, content: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket())?;
    // 1.0, so that the answer ends with the connection and is not chunked.
    let head = format!(
        "{method} /v1.41{path} HTTP/1.0\r\nHost: docker\r\nContent-Type: {content}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = String::from_utf8_lossy(&answer[..end]);
    let status = status.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, answer[end + 4..].to_vec()))
}

/// A call that must succeed, with JSON both ways.
pub fn json(method: &str, path: &str, body: Option<&Value>) -> Value {
    let text = body.map(Value::to_string).unwrap_or_default();
    let (status, answer) = call(method, path, "application/json", text.as_bytes()).expect("Docker answers");
    assert!((200..300).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
    serde_json::from_slice(&answer).unwrap_or(Value::Null)
}

/// All containers with a label, running or not.
pub fn containers(label: &str) -> Vec<Value> {
    let list = json("GET", &format!("/containers/json?all=1&filters={}", filter(label)), None);
    list.as_array().cloned().unwrap_or_default()
}

/// Removes all containers with a label, frozen ones too.
pub fn remove_containers(label: &str) {
    for container in containers(label) {
        let id = container["Id"].as_str().expect("an id");
        // Docker would wait for a frozen process.
        drop(std::fs::write(format!("/sys/fs/cgroup/freezer/docker/{id}/freezer.state"), "THAWED"));
        drop(call("DELETE", &format!("/containers/{id}?force=1&v=1"), "text/plain", b""));
    }
}

fn filter(label: &str) -> String {
    format!("%7B%22label%22%3A%5B%22{}%22%5D%7D", label.replace('=', "%3D"))
}

/// The image of the sample component; entry point `/testapp`, and `/bin/sh` is there.
#[derive(Debug)]
pub struct TestImage {
    /// How Docker knows it.
    pub name: String,
}

impl TestImage {
    /// The image, shared by all tests of this run. None if there is no Docker, which is said.
    pub fn get() -> Option<Arc<Self>> {
        static IMAGE: Mutex<Weak<TestImage>> = Mutex::new(Weak::new());
        let mut shared = IMAGE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = shared.upgrade() {
            return Some(image);
        }
        if call("GET", "/_ping", "text/plain", b"").is_err() {
            assert!(std::env::var(MUST).as_deref() != Ok("1"), "{MUST}=1, and no Docker answers on {:?}", socket());
            println!("NOT RUN: docker");
            return None;
        }
        sweep();
        let image = Arc::new(Self::build());
        *shared = Arc::downgrade(&image);
        Some(image)
    }

    fn build() -> Self {
        let root = stage();
        let tar = Command::new("tar").arg("-C").arg(&root).args(["-cf", "-", "."]).output().expect("tar runs");
        assert!(tar.status.success(), "tar failed");
        let pid = std::process::id();
        let name = format!("maelstrom-test:{pid}-{}", super::contract::unique());
        let (repository, tag) = name.split_once(':').expect("a tag");
        let changes = format!("ENTRYPOINT%20%5B%22%2Ftestapp%22%5D&changes=LABEL%20{LABEL}%3D{pid}");
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}&changes={changes}");
        let (status, answer) = call("POST", &path, "application/x-tar", &tar.stdout).expect("Docker answers");
        assert!(status == 200, "{status} {}", String::from_utf8_lossy(&answer));
        Self { name }
    }
}

impl Drop for TestImage {
    fn drop(&mut self) {
        drop(call("DELETE", &format!("/images/{}?force=1", self.name), "text/plain", b""));
    }
}

/// Removes images of test runs that are gone.
fn sweep() {
    let images = json("GET", &format!("/images/json?filters={}", filter(LABEL)), None);
    for image in images.as_array().into_iter().flatten() {
        let pid = image["Labels"][LABEL].as_str().unwrap_or("0");
        if !Path::new("/proc").join(pid).exists() {
            drop(call(
                "DELETE",
                &format!("/images/{}?force=1", image["Id"].as_str().expect("an id")),
                "text/plain",
                b"",
            ));
        }
    }
}

/// The root directory of the image: a static build of the sample component, and a shell if there is a static one.
fn stage() -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let root = base.join(format!("image-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(root.join("bin")).expect("a directory");
    std::fs::create_dir_all(root.join("tmp")).expect("a directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/testapp.rs");
    let built = base.join("testapp-static");
    let newer = |one: &Path, other: &Path| {
        let time = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
        time(one) > time(other)
    };
    if !newer(&built, &source) {
        // Of another name first: another test run may build at the same moment.
        let fresh = root.join("fresh");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
            .arg(&fresh)
            .arg(&source)
            .status();
        assert!(status.expect("rustc runs").success(), "the sample component does not build");
        std::fs::rename(&fresh, &built).expect("in place");
    }
    std::fs::copy(&built, root.join("testapp")).expect("copied");
    if Path::new("/bin/busybox").exists() {
        std::fs::copy("/bin/busybox", root.join("bin/sh")).expect("copied");
    }
    root
}
