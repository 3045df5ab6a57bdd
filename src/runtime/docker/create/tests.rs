//! What a component becomes in words of the engine.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::NetworkSettings;

use super::*;
use crate::id::{ClusterId, NodeId};
use crate::model::component::{Health, LogOptions, PullPolicy, RestartOrder, Stop, Workload};

fn image() -> Image {
    Image {
        reference: "app:1".into(),
        pinned: None,
        command: Vec::new(),
        entrypoint: Vec::new(),
        pull: PullPolicy::Missing,
        credentials: None,
    }
}

fn spec(change: impl FnOnce(&mut Component)) -> InstanceSpec {
    let second = Duration::from_secs(1);
    let mut component = Component {
        name: "api".parse().expect("a name"),
        workload: Workload::Image(image()),
        port: None,
        env: BTreeMap::new(),
        cfg: Vec::new(),
        memory_reserve: 16 << 20,
        memory_limit: None,
        cpu: None,
        concurrency: NonZeroU32::MIN,
        concurrency_target: NonZeroU32::MIN,
        min_instances: 0,
        max_instances: NonZeroU32::MIN,
        max_per_node: NonZeroU32::MIN,
        singleton: crate::model::component::Singleton::No,
        freeze_after: None,
        idle_timeout: second,
        start_timeout: second,
        request_timeout: second,
        queue_limit: 1,
        max_body: None,
        health: Health { path: None, interval: second, timeout: second, failures: NonZeroU32::MIN },
        restart_order: RestartOrder::StartFirst,
        rollout: crate::model::component::Rollout::default(),
        volumes: Vec::new(),
        network: None,
        log: LogOptions::default(),
        constraints: Vec::new(),
        labels: BTreeMap::new(),
        stop: Stop { signal: "SIGTERM".into(), grace: second },
    };
    change(&mut component);
    let id = InstanceId::new(&component.name, 1);
    InstanceSpec { id, component: Arc::new(component), version: "v1".into(), cfg: Vec::new() }
}

fn owner() -> Owner {
    Owner { node: NodeId(1), cluster: ClusterId(2) }
}

fn made(change: impl FnOnce(&mut Component)) -> ContainerCreateBody {
    body(&spec(change), &image(), &owner(), "json-file").expect("a body")
}

#[test]
fn limits_are_given_in_the_units_of_docker_and_swap_does_not_double_them() {
    let host = made(|component| {
        component.memory_limit = Some(64 << 20);
        component.cpu = NonZeroU32::new(250);
    })
    .host_config
    .expect("a host config");
    assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
    assert_eq!((host.memory_reservation, host.nano_cpus), (Some(16 << 20), Some(250_000_000)));
}

#[test]
fn a_user_cannot_take_the_place_of_our_labels_and_environment() {
    let made = made(|component| {
        component.labels.insert(LABEL_NODE.into(), "other".into());
        component.labels.insert("team".into(), "blue".into());
        component.env.insert("PORT".into(), "1".into());
    });
    let labels = made.labels.expect("labels");
    assert_eq!(labels.get(LABEL_NODE).map(String::as_str), Some("0000000000000001"));
    assert_eq!(labels.get("team").map(String::as_str), Some("blue"));
    assert_eq!(
        made.env.expect("env").iter().rfind(|line| line.starts_with("PORT=")).map(String::as_str),
        Some("PORT=8080")
    );
}

#[test]
fn files_of_dockers_own_log_are_bounded_unless_the_user_says_otherwise() {
    let config = |made: ContainerCreateBody| made.host_config.and_then(|host| host.log_config);
    let options = config(made(|_| {})).and_then(|log| log.config).expect("options");
    assert_eq!(options.get("max-size").map(String::as_str), Some("10m"));
    let own = made(|component| _ = component.log.options.insert("max-size".into(), "1g".into()));
    let options = config(own).and_then(|log| log.config).expect("options");
    assert_eq!(options.get("max-size").map(String::as_str), Some("1g"));
    let other = body(&spec(|_| {}), &image(), &owner(), "journald").expect("a body");
    assert_eq!(config(other), None);
}

#[test]
fn a_network_without_an_address_is_refused_in_words() {
    let spec = spec(|component| component.network = Some("none".into()));
    let error = body(&spec, &image(), &owner(), "").expect_err("refused");
    assert!(error.reason.contains("\"none\""), "{error}");
}

fn inspected(mode: &str, networks: &[(&str, &str)]) -> ContainerInspectResponse {
    let endpoint = |ip: &str| EndpointSettings { ip_address: Some(ip.into()), ..Default::default() };
    let networks = networks.iter().map(|(name, ip)| ((*name).to_owned(), endpoint(ip))).collect();
    ContainerInspectResponse {
        host_config: Some(HostConfig { network_mode: Some(mode.into()), ..Default::default() }),
        network_settings: Some(NetworkSettings { networks: Some(networks), ..Default::default() }),
        ..Default::default()
    }
}

#[test]
fn the_address_is_that_on_the_network_of_the_component() {
    let at = |mode: &str, networks: &[(&str, &str)]| address(&inspected(mode, networks), 80).to_string();
    assert_eq!(at("default", &[("bridge", "172.17.0.2")]), "172.17.0.2:80");
    assert_eq!(at("shop", &[("bridge", "172.17.0.2"), ("shop", "10.1.0.3")]), "10.1.0.3:80");
    assert_eq!(at("5f2e", &[("shop", "10.1.0.3")]), "10.1.0.3:80");
    assert_eq!(at("host", &[]), "127.0.0.1:80");
    assert_eq!(at("default", &[("bridge", "")]), "127.0.0.1:1");
}
