//! Fetching images: one fetch of an image at a time which all who want it join, progress summed over its layers, and
//! the errors of registries in words for the user.
//!
//! Knows nothing of containers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::super::{OnProgress, Progress, RuntimeError};
use super::client::Client;
use crate::failure::Phase;
use crate::model::component::{Credentials, Image};

/// Without any word from Docker for this long a fetch is given up. Docker reports several times a second while bytes
/// come, and is silent for up to half a minute while it connects or unpacks a large layer on a slow disk.
const SILENCE: Duration = Duration::from_secs(120);

/// Who fetches what: a fetch with another login must not answer for this one.
type Key = (String, Option<(String, String)>);

#[derive(Debug, Clone, Default)]
struct State {
    done: u64,
    total: Option<u64>,
    result: Option<Result<(), RuntimeError>>,
}

/// The fetches under way.
#[derive(Debug, Default)]
pub(super) struct Pulls(Arc<Mutex<BTreeMap<Key, watch::Receiver<State>>>>);

impl Pulls {
    /// Fetches an image, or joins the fetch under way. If the caller goes away the fetch goes on: the next start
    /// will want it.
    pub(super) async fn pull(
        &self,
        client: &Arc<Client>,
        image: &Image,
        progress: &OnProgress,
    ) -> Result<(), RuntimeError> {
        let login = image.credentials.as_ref().map(|login| (login.username.clone(), login.password.clone()));
        let key = (image.exact(), login);
        let mut state = self.join(client, image, key);
        loop {
            let now = state.borrow_and_update().clone();
            if let Some(result) = now.result {
                return result;
            }
            progress(Progress::Pulling(now.done, now.total));
            if state.changed().await.is_err() {
                // The task was stopped with the daemon.
                let reason = format!("the fetch of image {} was given up", image.reference);
                return Err(RuntimeError { phase: Phase::Pull, reason, unavailable: false });
            }
        }
    }

    fn join(&self, client: &Arc<Client>, image: &Image, key: Key) -> watch::Receiver<State> {
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose task died without a result is not joined.
        if let Some(state) = pulls.get(&key)
            && state.has_changed().is_ok()
        {
            return state.clone();
        }
        let (sender, state) = watch::channel(State::default());
        pulls.insert(key.clone(), state.clone());
        drop(pulls);
        let (all, client, image) = (Arc::clone(&self.0), Arc::clone(client), image.clone());
        crate::telemetry::spawn("docker-pull", async move {
            let result = fetch(&client, &image, &sender).await;
            // Out of the list first: who comes after the result fetches anew.
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            sender.send_modify(|state| state.result = Some(result));
        });
        state
    }
}

async fn fetch(client: &Client, image: &Image, state: &watch::Sender<State>) -> Result<(), RuntimeError> {
    let exact = image.exact();
    let reference = Reference::of(&exact);
    let options = CreateImageOptionsBuilder::new().from_image(reference.name).tag(reference.tag).build();
    let login = image.credentials.as_ref().map(|login| credentials(login, &reference));
    let docker = client.docker();
    let mut lines = docker.create_image(Some(options), None, login);
    let mut layers = Layers::default();
    loop {
        match tokio::time::timeout(SILENCE, lines.next()).await {
            Ok(Some(Ok(line))) => {
                layers.take(&line);
                let (done, total) = layers.sum();
                state.send_if_modified(|state| {
                    let changed = (state.done, state.total) != (done, total);
                    (state.done, state.total) = (done, total);
                    changed
                });
            }
            Ok(Some(Err(error))) => return Err(explain(client, image, &reference, &error)),
            Ok(None) => return Ok(()),
            Err(_) => {
                let registry = reference.registry;
                return Err(failed(format!(
                    "image {} could not be fetched: registry {registry} sent nothing for {} s; check the network, or \
                     load the image on this node with `docker load`",
                    image.reference,
                    SILENCE.as_secs()
                )));
            }
        }
    }
}

fn failed(reason: String) -> RuntimeError {
    RuntimeError { phase: Phase::Pull, reason, unavailable: false }
}

/// What a missing image means when it must not be fetched.
pub(super) fn never(image: &Image) -> RuntimeError {
    failed(format!(
        "image {} is not on this node and its pull policy is `never`; load it with `docker load`, or use the policy \
         `missing`",
        image.reference
    ))
}

fn explain(client: &Client, image: &Image, reference: &Reference<'_>, error: &Error) -> RuntimeError {
    let call = client.explain("pull", error);
    if call.unavailable {
        return call.at(Phase::Pull);
    }
    let text = if let Error::DockerStreamError { error } = error { error } else { &call.message };
    failed(words(&image.reference, reference.registry, image.credentials.is_some(), text))
}

/// Docker's text in words that say what to do. Registries and Docker releases differ in wording; what is not
/// recognised is passed on as it is.
fn words(image: &str, registry: &str, login: bool, text: &str) -> String {
    let low = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| low.contains(word));
    let unreachable = [
        "no such host",
        "connection refused",
        "i/o timeout",
        "deadline exceeded",
        "network is unreachable",
        "no route to host",
        "client.timeout",
        "tls handshake timeout",
        "server misbehaving",
        "temporary failure",
        "connection reset",
        "awaiting headers",
    ];
    if has(&unreachable) {
        return format!(
            "image {image} is not on this node and registry {registry} cannot be reached; check the network, or load \
             the image here with `docker load` (Docker: {text})"
        );
    }
    if has(&["toomanyrequests", "too many requests", "rate limit"]) {
        return format!("registry {registry} limits how often image {image} may be fetched; set credentials, or wait");
    }
    if has(&["manifest unknown", "manifest for", "name unknown", "not found: manifest"]) {
        return format!("image {image} does not exist on registry {registry}; check its name and tag (Docker: {text})");
    }
    if has(&[
        "access denied",
        "unauthorized",
        "authentication required",
        "incorrect username",
        "no basic auth",
        "denied",
    ]) {
        let what = if login {
            "does not accept the credentials of the component"
        } else {
            "knows no such public image; check its name, or give the component credentials"
        };
        return format!("image {image} cannot be fetched: registry {registry} {what} (Docker: {text})");
    }
    format!("image {image} could not be fetched from registry {registry}: {text}")
}

pub(super) fn credentials(login: &Credentials, reference: &Reference<'_>) -> DockerCredentials {
    DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.clone()),
        serveraddress: Some(reference.registry.to_owned()),
        ..DockerCredentials::default()
    }
}

/// The parts of an image reference that a fetch needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference<'a> {
    pub(super) name: &'a str,
    /// Tag or digest. Docker would fetch every tag there is if it were empty.
    tag: &'a str,
    pub(super) registry: &'a str,
}

impl<'a> Reference<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let (name, tag) = if let Some((name, digest)) = text.split_once('@') {
            // A tag beside a digest says nothing more.
            (split_tag(name).0, digest)
        } else {
            split_tag(text)
        };
        let registry = match name.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
            _ => "docker.io",
        };
        Self { name, tag, registry }
    }
}

fn split_tag(text: &str) -> (&str, &str) {
    match text.rsplit_once(':') {
        // A colon before the last slash belongs to a port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (text, "latest"),
    }
}

/// Bytes of each layer as far as Docker has told.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, (u64, Option<u64>)>);

impl Layers {
    fn take(&mut self, line: &CreateImageInfo) {
        let (Some(layer), Some(status)) = (&line.id, &line.status) else { return };
        let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let detail = line.progress_detail.as_ref();
        let entry = self.0.entry(layer.clone()).or_default();
        match status.as_str() {
            "Downloading" => {
                entry.0 = number(detail.and_then(|detail| detail.current)).unwrap_or(entry.0);
                entry.1 = number(detail.and_then(|detail| detail.total)).or(entry.1);
            }
            "Download complete" | "Pull complete" | "Verifying Checksum" => entry.0 = entry.1.unwrap_or(entry.0),
            _ => {}
        }
    }

    /// Bytes so far, and in all once the size of each layer that downloads is known.
    fn sum(&self) -> (u64, Option<u64>) {
        let done = self.0.values().map(|layer| layer.0).sum();
        let known: u64 = self.0.values().filter_map(|layer| layer.1).sum();
        let open = self.0.values().any(|layer| layer.0 > 0 && layer.1.is_none());
        (done, (known > 0 && !open).then_some(known))
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn line(layer: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        let detail = ProgressDetail { current: Some(current), total: Some(total) };
        let progress_detail = (total > 0).then_some(detail);
        CreateImageInfo { id: Some(layer.into()), status: Some(status.into()), progress_detail, ..Default::default() }
    }

    #[test]
    fn a_reference_is_cut_where_docker_would_cut_it() {
        for (text, name, tag, registry) in [
            ("nginx", "nginx", "latest", "docker.io"),
            ("team/app:1.2", "team/app", "1.2", "docker.io"),
            ("localhost:5000/app", "localhost:5000/app", "latest", "localhost:5000"),
            ("ghcr.io/a/b:3@sha256:00", "ghcr.io/a/b", "sha256:00", "ghcr.io"),
        ] {
            assert_eq!(Reference::of(text), Reference { name, tag, registry }, "{text}");
        }
    }

    #[test]
    fn progress_is_the_sum_over_all_layers() {
        let mut layers = Layers::default();
        layers.take(&line("a", "Pulling fs layer", 0, 0));
        assert_eq!(layers.sum(), (0, None));
        layers.take(&line("a", "Downloading", 10, 100));
        layers.take(&line("b", "Downloading", 5, 50));
        assert_eq!(layers.sum(), (15, Some(150)));
        layers.take(&line("a", "Download complete", 0, 0));
        layers.take(&line("a", "Extracting", 3, 100));
        assert_eq!(layers.sum(), (105, Some(150)));
    }

    #[test]
    fn errors_of_registries_say_which_image_and_what_to_do() {
        for (text, expected) in [
            ("Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host", "cannot be reached"),
            ("manifest for r.example/x:9 not found: manifest unknown", "does not exist on registry r.example"),
            ("pull access denied for x, repository does not exist or may require 'docker login'", "credentials"),
            ("toomanyrequests: You have reached your pull rate limit", "limits how often"),
            ("disk full", "could not be fetched from registry r.example: disk full"),
        ] {
            let words = words("r.example/x:9", "r.example", false, text);
            assert!(words.contains(expected) && words.contains("r.example/x:9"), "{words}");
        }
    }
}
