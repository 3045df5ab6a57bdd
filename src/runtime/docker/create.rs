//! From an instance to what Docker is told, and from what Docker tells to an address. Pure: no call is made here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    RestartPolicy, RestartPolicyNameEnum,
};

use super::super::files::Placed;
use super::super::{InstanceSpec, Owner, RuntimeError};
use crate::failure::Phase;
use crate::id::InstanceId;
use crate::model::cfg::DIRECTORY;
use crate::model::component::{Component, Image, Volume, VolumeKind};

/// The label with the id of the node that started a container.
pub const LABEL_NODE: &str = "maelstrom.node";
/// The label with the id of the cluster.
pub const LABEL_CLUSTER: &str = "maelstrom.cluster";
/// The label with the name of the component.
pub const LABEL_COMPONENT: &str = "maelstrom.component";
/// The label with the id of the instance.
pub const LABEL_INSTANCE: &str = "maelstrom.instance";
/// The label with the version of the definition.
pub const LABEL_VERSION: &str = "maelstrom.version";
/// The label with the port inside, so that an adopted container can be reached without its definition.
pub const LABEL_PORT: &str = "maelstrom.port";

/// The port of an image that says nothing else.
const DEFAULT_PORT: u16 = 8080;

/// Where a container that ended before it had an address is said to listen: port 1 of the loopback (tcpmux), which
/// nobody uses, so that a connection is refused at once. The event of its end is on its way.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Where the files of settings are seen that have a name and no path. Below `/run`, where no image keeps anything.
const FILES: &str = "/run/maelstrom/cfg";

/// The smallest memory reservation that Docker takes; a smaller one is left out, as it would reserve next to nothing.
const SMALLEST_RESERVATION: u64 = 6 * 1024 * 1024;

/// Docker's default log file grows without bound. The log book has our copy, so two files of this size are enough
/// for `docker logs`.
const LOG_FILE: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "2")];

/// The name of the container of an instance.
pub(super) fn container_name(id: &InstanceId) -> String {
    format!("maelstrom-{id}")
}

/// The filter values that select containers of this owner and nothing else.
pub(super) fn owner_filter(owner: &Owner) -> Vec<String> {
    vec![format!("{LABEL_NODE}={}", owner.node), format!("{LABEL_CLUSTER}={}", owner.cluster)]
}

/// The port that the instance is told to listen on.
pub(super) fn port(component: &Component) -> u16 {
    component.port.map_or(DEFAULT_PORT, std::num::NonZeroU16::get)
}

/// What Docker is asked to create. `default_driver` is the engine's own log driver.
///
/// # Errors
/// The definition asks for a network on which no request can reach an instance.
pub(super) fn body(
    spec: &InstanceSpec,
    image: &Image,
    owner: &Owner,
    default_driver: &str,
) -> Result<ContainerCreateBody, RuntimeError> {
    let component = &*spec.component;
    if let Some(network) = component.network.as_deref()
        && (network == "none" || network.starts_with("container:"))
    {
        let reason = format!(
            "network {network:?} gives an instance no address of its own; use bridge, host or the name of a network"
        );
        return Err(RuntimeError { phase: Phase::Start, reason, unavailable: false });
    }
    let limit = component.memory_limit.map(signed);
    let host_config = HostConfig {
        memory: limit,
        // Without this Docker grants as much again in swap, and the limit would be no limit.
        memory_swap: limit,
        memory_reservation: Some(component.memory_reserve)
            .filter(|reserve| *reserve >= SMALLEST_RESERVATION)
            .map(signed),
        nano_cpus: component.cpu.map(|milli| i64::from(milli.get()) * 1_000_000),
        mounts: Some(component.volumes.iter().map(mount).collect()),
        network_mode: component.network.clone(),
        log_config: log_config(component, default_driver),
        // Activation decides what runs; a restart behind its back would be an instance that nobody asked for.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        // As process 1, most programs ignore SIGTERM and never reap: each stop would take the whole grace time. The
        // small init costs about 1 ms of a start.
        init: Some(true),
        ..HostConfig::default()
    };
    Ok(ContainerCreateBody {
        image: Some(image.exact()),
        cmd: Some(image.command.clone()).filter(|words| !words.is_empty()),
        entrypoint: Some(image.entrypoint.clone()).filter(|words| !words.is_empty()),
        env: Some(env(spec, owner)),
        labels: Some(labels(spec, owner).collect()),
        stop_signal: Some(component.stop.signal.clone()),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

/// Adds the files with the settings of an instance: each one that has a path at that path, the others in one directory.
pub(super) fn hand_over(body: &mut ContainerCreateBody, placed: &Placed) {
    let mount = |source: &Path, target: &str| Mount {
        target: Some(target.to_owned()),
        source: Some(source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..Mount::default()
    };
    let files = placed.files.iter().map(|(file, path)| mount(file, path));
    let dir = placed.dir.iter().map(|dir| mount(dir, FILES));
    let mounts = body.host_config.get_or_insert_default().mounts.get_or_insert_default();
    mounts.extend(files.chain(dir));
    let env = body.env.get_or_insert_default();
    env.extend(placed.dir.iter().map(|_| format!("{DIRECTORY}={FILES}")));
    env.extend(placed.variables.iter().map(|(variable, path)| match path.starts_with('/') {
        true => format!("{variable}={path}"),
        false => format!("{variable}={FILES}/{path}"),
    }));
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Ours come last and win.
fn env(spec: &InstanceSpec, owner: &Owner) -> Vec<String> {
    let component = &*spec.component;
    let mut env: Vec<String> = spec.variables().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.push(format!("PORT={}", port(component)));
    env.push(format!("MAELSTROM_COMPONENT={}", component.name));
    env.push(format!("MAELSTROM_INSTANCE_ID={}", spec.id));
    env.push(format!("MAELSTROM_VERSION={}", spec.version));
    env.push(format!("MAELSTROM_NODE_ID={}", owner.node));
    env.push(format!("MAELSTROM_CLUSTER_ID={}", owner.cluster));
    env
}

/// Ours come last and win: a user's label must not make a container look like another node's.
fn labels<'a>(spec: &'a InstanceSpec, owner: &Owner) -> impl Iterator<Item = (String, String)> + 'a {
    let ours = [
        (LABEL_NODE, owner.node.to_string()),
        (LABEL_CLUSTER, owner.cluster.to_string()),
        (LABEL_COMPONENT, spec.component.name.to_string()),
        (LABEL_INSTANCE, spec.id.to_string()),
        (LABEL_VERSION, spec.version.clone()),
        (LABEL_PORT, port(&spec.component).to_string()),
    ];
    let users = spec.component.labels.iter().map(|(name, value)| (name.clone(), value.clone()));
    users.chain(ours.into_iter().map(|(name, value)| (name.to_owned(), value)))
}

fn mount(volume: &Volume) -> Mount {
    let (typ, source) = match volume.kind {
        VolumeKind::Bind => (MountType::BIND, Some(volume.source.clone())),
        VolumeKind::Volume => (MountType::VOLUME, Some(volume.source.clone())),
        VolumeKind::Tmpfs => (MountType::TMPFS, None),
    };
    Mount {
        target: Some(volume.target.clone()),
        source,
        typ: Some(typ),
        read_only: Some(volume.read_only),
        ..Mount::default()
    }
}

fn log_config(component: &Component, default_driver: &str) -> Option<HostConfigLogConfig> {
    let log = &component.log;
    let driver = log.driver.as_deref().unwrap_or(default_driver);
    let mut options = log.options.clone();
    if matches!(driver, "json-file" | "local") {
        for (name, value) in LOG_FILE {
            options.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    } else if log.driver.is_none() && options.is_empty() {
        return None;
    }
    Some(HostConfigLogConfig { typ: Some(driver.to_owned()), config: Some(options.into_iter().collect()) })
}

/// Where a container listens. One that has ended already has no address any more and gets one that refuses.
pub(super) fn address(inspected: &ContainerInspectResponse, port: u16) -> SocketAddr {
    let mode = inspected.host_config.as_ref().and_then(|host| host.network_mode.as_deref()).unwrap_or("default");
    if mode == "host" {
        return (Ipv4Addr::LOCALHOST, port).into();
    }
    let wanted = if mode == "default" { "bridge" } else { mode };
    let Some(networks) = inspected.network_settings.as_ref().and_then(|settings| settings.networks.as_ref()) else {
        return NOWHERE;
    };
    let first = networks.get(wanted).and_then(ip);
    first.or_else(|| networks.values().filter_map(ip).min()).map_or(NOWHERE, |ip| (ip, port).into())
}

fn ip(endpoint: &EndpointSettings) -> Option<IpAddr> {
    let parse = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
    parse(&endpoint.ip_address).or_else(|| parse(&endpoint.global_ipv6_address))
}

#[cfg(test)]
mod tests;
