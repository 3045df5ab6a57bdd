//! What a tag stands for at this moment: the digest of the image in its registry, else that under which this node
//! fetched it.
//!
//! Knows nothing of containers.

use std::time::Duration;

use super::client::Client;
use super::pull::{Reference, credentials};
use crate::model::component::Image;
use crate::model::image::ImageRef;

/// For the registry's answer. It takes a tenth of a second across the world; whoever puts a component waits for it, also
/// where no registry can be reached.
const REGISTRY: Duration = Duration::from_secs(3);

/// The digest; else in words why it is not known.
pub(super) async fn digest(client: &Client, image: &Image) -> Result<String, String> {
    let name = image.reference.as_str();
    let reference = Reference::of(name);
    let login = image.credentials.as_ref().map(|login| credentials(login, &reference));
    let asked = client.call("look for the image in its registry", REGISTRY, async |docker| {
        docker.inspect_registry_image(name, login).await
    });
    let why = match asked.await {
        Ok(found) => match found.descriptor.digest.filter(|digest| is_digest(digest)) {
            Some(digest) => return Ok(digest),
            None => format!("registry {} names no digest", reference.registry),
        },
        Err(error) => format!("registry {} did not tell ({error})", reference.registry),
    };
    let asked = client.call("inspect", REGISTRY, async |docker| docker.inspect_image(name).await);
    match asked.await {
        Ok(here) => fetched(name, &here.repo_digests.unwrap_or_default())
            .ok_or_else(|| format!("{why}, and the image on this node was not fetched from there")),
        Err(_) => Err(format!("{why}, and the image is not on this node")),
    }
}

/// The digest under which an image was fetched from the repository that its name says.
fn fetched(name: &str, digests: &[String]) -> Option<String> {
    let wanted = repository(name);
    let found = digests.iter().filter(|text| repository(text) == wanted);
    found.filter_map(|text| text.split_once('@')).map(|(_, digest)| digest.to_owned()).find(|digest| is_digest(digest))
}

/// The name without tag and digest, as Docker shortens it.
fn repository(text: &str) -> &str {
    let name = Reference::of(text).name;
    let name = name.strip_prefix("docker.io/").or_else(|| name.strip_prefix("index.docker.io/")).unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

fn is_digest(text: &str) -> bool {
    ImageRef::parse(&format!("x@{text}")).is_ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;
    use crate::model::component::PullPolicy;

    const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
    const TWO: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

    /// An engine that gives these answers to the two questions, by what their path has.
    async fn engine(registry: (u16, String), local: (u16, String)) -> (Client, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        crate::telemetry::spawn("engine", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (registry, local) = (registry.clone(), local.clone());
                crate::telemetry::spawn("engine connection", async move {
                    let mut head = vec![0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut head).await {
                        let asked = String::from_utf8_lossy(&head[..read]).into_owned();
                        let line = asked.lines().next().unwrap_or_default();
                        let (status, body) = match line {
                            line if line.contains("/distribution/team/app:1/json") => registry.clone(),
                            line if line.contains("/images/team/app:1/json") => local.clone(),
                            _ => (200, "OK".to_owned()),
                        };
                        let answer = format!(
                            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (Client::connect(path.to_str()).await.expect("it answers"), dir)
    }

    async fn ask(registry: (u16, String), local: (u16, String)) -> Result<String, String> {
        let (client, _dir) = engine(registry, local).await;
        let image = Image {
            reference: "team/app:1".into(),
            pinned: None,
            command: Vec::new(),
            entrypoint: Vec::new(),
            pull: PullPolicy::Missing,
            credentials: None,
        };
        digest(&client, &image).await
    }

    fn away() -> (u16, String) {
        (500, r#"{"message":"dial tcp: lookup registry-1.docker.io: no such host"}"#.to_owned())
    }

    fn here(digests: &str) -> (u16, String) {
        (200, format!(r#"{{"Id":"sha256:00","RepoDigests":{digests}}}"#))
    }

    #[tokio::test]
    async fn the_registry_says_what_a_tag_stands_for_whatever_this_node_has() {
        let body = format!(r#"{{"Descriptor":{{"digest":"{ONE}"}},"Platforms":[]}}"#);
        let local = here(&format!(r#"["team/app@{TWO}"]"#));
        assert_eq!(ask((200, body), local).await, Ok(ONE.to_owned()));
    }

    #[tokio::test]
    async fn without_a_registry_it_is_what_this_node_fetched_from_there_and_nothing_else() {
        let local = here(&format!(r#"["mirror.example/team/app@{ONE}","team/app@{TWO}"]"#));
        assert_eq!(ask(away(), local).await, Ok(TWO.to_owned()));
        let why = ask(away(), here("[]")).await.expect_err("an image that was loaded has none");
        assert!(why.contains("no such host") && why.contains("not fetched from there"), "{why}");
        let why = ask(away(), (404, r#"{"message":"no such image"}"#.to_owned())).await.expect_err("it is not there");
        assert!(why.contains("registry docker.io did not tell") && why.contains("not on this node"), "{why}");
    }

    #[test]
    fn a_name_is_that_of_docker_in_every_spelling() {
        let digests = [format!("nginx@{ONE}")];
        for name in ["nginx:1", "library/nginx:1", "docker.io/library/nginx", "docker.io/nginx:2"] {
            assert_eq!(fetched(name, &digests), Some(ONE.to_owned()), "{name}");
        }
        for name in ["other:1", "ghcr.io/nginx:1", "team/nginx:1"] {
            assert_eq!(fetched(name, &digests), None, "{name}");
        }
    }
}
