//! The routing snapshot: which source takes a request, and what is behind it.
//!
//! The most specific host that has a matching path wins: the exact host, then the longest wildcard, then any host.
//! Within a host the longest path prefix wins. A lookup allocates nothing and touches a few cache lines whatever the
//! size of the table. Knows nothing of how sources are stored or changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{ComponentName, SourceName};
use crate::model::Component;
use crate::model::source::{Http, Source, Trigger};
use crate::router::pattern::{self, HOST_MAX};
use crate::slots::Gate;

/// Where a request goes.
#[derive(Debug)]
pub struct Target {
    /// The source that took it.
    pub source: SourceName,
    /// What the source names.
    pub component: ComponentName,
    /// The component and its live instances; `None` if the source names a component that does not exist.
    pub live: Option<(Arc<Component>, Arc<Gate>)>,
    /// Path prefix to cut off, in the form of [`pattern::normal_prefix`].
    pub strip: Option<String>,
}

/// Two enabled sources want the same host and path. Both were accepted (at the same moment, on different nodes); the
/// one with the lesser name serves until someone resolves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// The source that serves.
    pub winner: SourceName,
    /// The source that does not.
    pub loser: SourceName,
}

/// The immutable routing snapshot.
#[derive(Debug, Default)]
pub struct Table {
    hosts: Vec<Host>,
    routes: Vec<Route>,
    exact: Index,
    wild: Index,
    paths: Index,
    /// The host that stands for any.
    any: Option<u32>,
    /// Labels of the longest wildcard domain: longer suffixes of a host need no look.
    wild_labels: usize,
    shadowed: Vec<Shadowed>,
}

/// Key of a host in the order of building: kind, then text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum HostKey {
    Any,
    Exact(Vec<u8>),
    Wild(Vec<u8>),
}

/// One cache line: a lookup touches the cell of the index and this.
#[derive(Debug)]
#[repr(align(64))]
struct Host {
    key: Key,
    /// The route of the empty prefix.
    root: Option<Arc<Target>>,
    /// Bytes and segments of the longest prefix: nothing behind needs a look.
    longest: u32,
    depth: u32,
}

/// One cache line, as [`Host`].
#[derive(Debug)]
#[repr(align(64))]
struct Route {
    prefix: Key,
    target: Arc<Target>,
    host: u32,
}

/// Bytes to compare with; in place if they fit into what the line has left.
#[derive(Debug)]
enum Key {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

/// What fits beside the other fields; longer than nearly all hosts and prefixes.
const SHORT: usize = 38;

impl Key {
    fn new(bytes: &[u8]) -> Self {
        let mut short = [0; SHORT];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(bytes);
                Self::Short(length, short)
            }
            _ => Self::Long(bytes.into()),
        }
    }

    fn is(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Short(length, short) => short[..usize::from(*length)] == *bytes,
            Self::Long(long) => **long == *bytes,
        }
    }
}

impl Table {
    /// Builds the snapshot from validated sources; disabled ones and those of other kinds are left out. The order of
    /// the input does not matter.
    pub fn build<'s>(sources: impl IntoIterator<Item = (&'s Source, Option<(Arc<Component>, Arc<Gate>)>)>) -> Self {
        let mut routes: BTreeMap<(HostKey, &'s str), (&'s Source, Target)> = BTreeMap::new();
        let mut losers = Vec::new();
        for (source, live) in sources {
            let Some((http, host)) = served(source) else { continue };
            let prefix = pattern::normal_prefix(&http.path);
            let target = Target {
                source: source.name.clone(),
                component: source.component.clone(),
                live,
                strip: (http.strip_prefix && !prefix.is_empty()).then(|| prefix.to_owned()),
            };
            let key = (host, prefix);
            match routes.get_mut(&key) {
                Some(served) if source.name < served.0.name => {
                    let (loser, _) = std::mem::replace(served, (source, target));
                    losers.push((key, loser));
                }
                Some(_) => losers.push((key, source)),
                None => {
                    routes.insert(key, (source, target));
                }
            }
        }
        let mut table = Self::default();
        table.shadowed.extend(losers.iter().filter_map(|(key, loser)| {
            let (winner, _) = routes.get(key)?;
            Some(Shadowed { winner: winner.name.clone(), loser: loser.name.clone() })
        }));
        table.shadowed.sort_by(|a, b| a.loser.cmp(&b.loser));

        let (mut hosts, mut sums): (Vec<HostKey>, Vec<u64>) = Default::default();
        for ((key, prefix), (_, target)) in routes {
            if hosts.last() != Some(&key) {
                hosts.push(key.clone());
                let text = match key {
                    HostKey::Any => Vec::new(),
                    HostKey::Exact(text) | HostKey::Wild(text) => text,
                };
                table.hosts.push(Host { key: Key::new(&text), root: None, longest: 0, depth: 0 });
            }
            let at = table.hosts.len() - 1;
            let host = &mut table.hosts[at];
            let target = Arc::new(target);
            if prefix.is_empty() {
                host.root = Some(target);
                continue;
            }
            host.depth = host.depth.max(index(prefix.bytes().filter(|&byte| byte == b'/').count()));
            host.longest = host.longest.max(index(prefix.len()));
            let segments = prefix.split('/').skip(1);
            sums.push(segments.fold(path_seed(index(at)), |sum, segment| hash(sum, segment.as_bytes())));
            table.routes.push(Route { host: index(at), prefix: Key::new(prefix.as_bytes()), target });
        }
        table.exact = Index::sized(hosts.len());
        table.wild = Index::sized(hosts.len());
        for (at, key) in hosts.iter().enumerate() {
            match key {
                HostKey::Any => table.any = Some(index(at)),
                HostKey::Exact(text) => table.exact.insert(hash(SEED, text), index(at)),
                HostKey::Wild(text) => {
                    table.wild_labels = table.wild_labels.max(labels(text));
                    table.wild.insert(hash(SEED, text), index(at));
                }
            }
        }
        table.paths = Index::sized(table.routes.len());
        for (at, &sum) in sums.iter().enumerate() {
            table.paths.insert(sum, index(at));
        }
        table
    }

    /// The target of a request. `host` as the client wrote it, port included; `path` without the query.
    pub fn lookup(&self, host: &str, path: &str) -> Option<&Arc<Target>> {
        if !path.starts_with('/') {
            return None;
        }
        let mut buffer = [0; HOST_MAX];
        if let Some(host) = pattern::normal_host(host, &mut buffer) {
            if let Some(target) = self.host(&self.exact, host).and_then(|at| self.within(at, path)) {
                return Some(target);
            }
            if self.wild_labels > 0
                && let Some(target) = self.by_wildcard(host, path)
            {
                return Some(target);
            }
        }
        self.any.and_then(|at| self.within(at, path))
    }

    /// The sources that another one keeps from serving, sorted by name.
    pub fn shadowed(&self) -> &[Shadowed] {
        &self.shadowed
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.len() + self.hosts.iter().filter(|host| host.root.is_some()).count()
    }

    /// Whether no request has a target.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Longest domain first.
    fn by_wildcard(&self, host: &[u8], path: &str) -> Option<&Arc<Target>> {
        let mut left = labels(host);
        for (dot, _) in host.iter().enumerate().filter(|&(at, &byte)| byte == b'.' && at > 0) {
            left -= 1;
            if left > self.wild_labels {
                continue;
            }
            if let Some(target) = self.host(&self.wild, &host[dot + 1..]).and_then(|at| self.within(at, path)) {
                return Some(target);
            }
        }
        None
    }

    fn host(&self, among: &Index, host: &[u8]) -> Option<u32> {
        among.find(hash(SEED, host), |at| self.hosts[at as usize].key.is(host))
    }

    /// The longest prefix that covers the path: one pass, one look per segment.
    fn within(&self, at: u32, path: &str) -> Option<&Arc<Target>> {
        let host = &self.hosts[at as usize];
        let mut best = host.root.as_ref();
        let path = path.as_bytes();
        let (mut sum, mut start) = (path_seed(at), 1);
        for _ in 0..host.depth {
            let within = &path[start..path.len().min(host.longest as usize + 1)];
            let end = start + within.iter().position(|&byte| byte == b'/').unwrap_or(within.len());
            if end > host.longest as usize {
                break;
            }
            sum = hash(sum, &path[start..end]);
            let found = self.paths.find(sum, |route| {
                let route = &self.routes[route as usize];
                route.host == at && route.prefix.is(&path[..end])
            });
            if let Some(route) = found {
                best = Some(&self.routes[route as usize].target);
            }
            if end == path.len() {
                break;
            }
            start = end + 1;
        }
        best
    }
}

/// The other enabled source that wants the same host and path as `candidate`, the one with the least name if there
/// are several. To be asked when a source is put or enabled; a disabled candidate conflicts with nobody.
pub fn conflict<'s>(candidate: &Source, others: impl IntoIterator<Item = &'s Source>) -> Option<&'s SourceName> {
    let (http, host) = served(candidate)?;
    let prefix = pattern::normal_prefix(&http.path);
    others
        .into_iter()
        .filter(|other| other.name != candidate.name)
        .filter(|other| {
            served(other).is_some_and(|(http, other)| other == host && pattern::normal_prefix(&http.path) == prefix)
        })
        .map(|other| &other.name)
        .min()
}

/// The route of a source that takes requests; `None` if it is disabled, of another kind, or its host can match none.
fn served(source: &Source) -> Option<(&Http, HostKey)> {
    let Trigger::Http(http) = &source.trigger else { return None };
    if !source.enabled {
        return None;
    }
    let mut buffer = [0; HOST_MAX];
    let key = match http.host.as_deref() {
        None => HostKey::Any,
        Some(host) => match pattern::wildcard(host) {
            Some(domain) => HostKey::Wild(pattern::normal_host(domain, &mut buffer)?.to_vec()),
            None => HostKey::Exact(pattern::normal_host(host, &mut buffer)?.to_vec()),
        },
    };
    Some((http, key))
}

fn labels(host: &[u8]) -> usize {
    1 + host.iter().filter(|&&byte| byte == b'.').count()
}

/// Positions are 32 bits wide to halve the index; more than four billion routes do not fit in memory.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Odd numbers without pattern: the first digits of pi and of the golden ratio.
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Continues a hash with one text, eight bytes at a time. A fixed hash is safe here: only administrators choose what
/// is in the index, so a client cannot build long chains.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = seed ^ bytes.len() as u64;
    for word in words {
        sum = fold(sum ^ u64::from_le_bytes(*word));
    }
    let rest = rest.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
    fold(sum ^ rest)
}

/// Both halves of a wide product: every bit of the input reaches every bit of the sum.
fn fold(word: u64) -> u64 {
    let wide = u128::from(word ^ SEED) * u128::from(FACTOR);
    (wide >> 64) as u64 ^ wide as u64
}

fn path_seed(host: u32) -> u64 {
    fold(u64::from(host))
}

/// An open-addressed index from a hash to a position in a list that the owner keeps. Never grows, at most half full.
#[derive(Debug, Default)]
struct Index {
    /// Upper half of the hash, and position + 1 (0 is free).
    cells: Vec<(u32, u32)>,
}

impl Index {
    fn sized(entries: usize) -> Self {
        Self { cells: if entries == 0 { Vec::new() } else { vec![(0, 0); (entries * 2).next_power_of_two()] } }
    }

    fn insert(&mut self, sum: u64, at: u32) {
        let mask = self.cells.len() - 1;
        let (tag, mut cell) = parts(sum, mask);
        while self.cells[cell].1 != 0 {
            cell = (cell + 1) & mask;
        }
        self.cells[cell] = (tag, at + 1);
    }

    fn find(&self, sum: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        if self.cells.is_empty() {
            return None;
        }
        let mask = self.cells.len() - 1;
        let (tag, mut cell) = parts(sum, mask);
        loop {
            match self.cells[cell] {
                (_, 0) => return None,
                (found, at) if found == tag && same(at - 1) => return Some(at - 1),
                _ => cell = (cell + 1) & mask,
            }
        }
    }
}

/// The tag and the first cell of a hash.
fn parts(sum: u64, mask: usize) -> (u32, usize) {
    ((sum >> 32) as u32, sum as usize & mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(name: &str, host: Option<&str>, path: &str) -> Source {
        Source {
            name: name.parse().expect("a name"),
            component: "api".parse().expect("a name"),
            enabled: true,
            trigger: Trigger::Http(Http { host: host.map(str::to_owned), path: path.to_owned(), strip_prefix: true }),
        }
    }

    fn found<'t>(table: &'t Table, host: &str, path: &str) -> Option<&'t str> {
        table.lookup(host, path).map(|target| target.source.as_str())
    }

    fn table(sources: &[Source]) -> Table {
        Table::build(sources.iter().map(|source| (source, None)))
    }

    #[test]
    fn the_most_specific_host_with_a_matching_path_wins() {
        let table = table(&[
            source("any", None, "/"),
            source("wide", Some("*.example.com"), "/"),
            source("narrow", Some("*.eu.example.com"), "/only"),
            source("exact", Some("www.eu.example.com"), "/api"),
            source("deep", Some("www.eu.example.com"), "/api/v1"),
        ]);
        for (host, path, expected) in [
            ("WWW.eu.example.com:8080", "/api", "exact"),
            ("www.eu.example.com", "/api/v1/x", "deep"),
            ("www.eu.example.com", "/api/v10", "exact"),
            ("www.eu.example.com", "/only", "narrow"),
            ("www.eu.example.com", "/other", "wide"),
            ("a.b.c.example.com", "/", "wide"),
            ("example.com", "/", "any"),
            ("", "/", "any"),
            (".example.com", "/", "any"),
        ] {
            assert_eq!(found(&table, host, path), Some(expected), "{host} {path}");
        }
        assert_eq!(found(&table, "example.com", "*"), None);
    }

    #[test]
    fn an_ipv6_literal_is_a_host_with_and_without_port() {
        let table = table(&[source("six", Some("[2001:db8::1]"), "/")]);
        assert_eq!(found(&table, "[2001:DB8::1]:8080", "/"), Some("six"));
        assert_eq!(found(&table, "[2001:db8::1]", "/"), Some("six"));
        assert_eq!(found(&table, "[2001:db8::2]", "/"), None);
    }

    #[test]
    fn of_sources_that_want_the_same_the_least_name_serves_and_each_loser_is_reported() {
        let sources = [source("c", None, "/x"), source("a", None, "/x"), source("b", None, "/x")];
        let table = table(&sources);
        assert_eq!(found(&table, "", "/x"), Some("a"));
        let pair =
            |loser: &str| Shadowed { winner: "a".parse().expect("a name"), loser: loser.parse().expect("a name") };
        assert_eq!(table.shadowed(), [pair("b"), pair("c")]);
        assert_eq!(conflict(&sources[0], &sources).map(SourceName::as_str), Some("a"));
        let other = source("d", Some("h"), "/x");
        assert_eq!(conflict(&other, &sources), None);
    }

    #[test]
    fn a_disabled_source_takes_nothing_and_conflicts_with_nobody() {
        let mut off = source("off", None, "/");
        off.enabled = false;
        assert!(table(std::slice::from_ref(&off)).is_empty());
        assert_eq!(conflict(&source("on", None, "/"), [&off]), None);
    }

    #[test]
    fn each_of_a_hundred_thousand_routes_is_found() {
        let sources: Vec<Source> = (0..100_000)
            .map(|n| match n % 2 {
                0 => source(&format!("s{n}"), Some(&format!("app-{n}.example.com")), "/"),
                _ => source(&format!("s{n}"), None, &format!("/team-{}/app-{n}", n % 97)),
            })
            .collect();
        let table = table(&sources);
        assert_eq!(table.len(), sources.len());
        for n in (0..100_000).step_by(7) {
            let (host, path) = match n % 2 {
                0 => (format!("app-{n}.example.com:80"), "/some/page".to_owned()),
                _ => ("other.example.com".to_owned(), format!("/team-{}/app-{n}/page", n % 97)),
            };
            assert_eq!(found(&table, &host, &path), Some(format!("s{n}").as_str()));
        }
    }

    /// The rule in its plainest form: sort by how specific, take the first that matches.
    fn reference<'s>(sources: &'s [Source], host: &str, path: &str) -> Option<&'s str> {
        let mut matching: Vec<(u8, usize, usize, std::cmp::Reverse<&str>)> = Vec::new();
        for source in sources {
            let Trigger::Http(http) = &source.trigger else { continue };
            let prefix = pattern::normal_prefix(&http.path);
            if !pattern::covers(prefix, path) {
                continue;
            }
            let name = std::cmp::Reverse(source.name.as_str());
            match &http.host {
                None => matching.push((0, 0, prefix.len(), name)),
                Some(text) if text == host => matching.push((2, 0, prefix.len(), name)),
                Some(text) => {
                    let before = text.strip_prefix("*.").and_then(|domain| Some((domain, host.strip_suffix(domain)?)));
                    if let Some((domain, before)) = before
                        && before.len() > 1
                        && before.ends_with('.')
                    {
                        matching.push((1, domain.len(), prefix.len(), name));
                    }
                }
            }
        }
        matching.into_iter().max().map(|(_, _, _, name)| name.0)
    }

    proptest! {
        #[test]
        fn every_lookup_answers_as_the_plain_rule_does(
            routes in proptest::collection::vec(
                (proptest::option::of("(\\*\\.)?[ab](\\.[ab]){0,3}"), "(/[xy]{1,2}){0,3}"), 0..20),
            asks in proptest::collection::vec(("[ab](\\.[ab]){0,4}", "/|(/[xy]{0,2}){1,4}"), 1..20),
        ) {
            let sources: Vec<Source> = routes
                .iter()
                .enumerate()
                .map(|(n, (host, path))| {
                    source(&format!("s{n:02}"), host.as_deref(), if path.is_empty() { "/" } else { path })
                })
                .collect();
            let table = table(&sources);
            for (host, path) in &asks {
                prop_assert_eq!(found(&table, host, path), reference(&sources, host, path), "{} {}", host, path);
            }
        }
    }
}
