//! Checks the dependency tree against deny.toml: licences, banned crates, sources. Needs cargo alone, so it runs
//! wherever the tests run; `cargo deny` in the public workflow adds the advisories.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value as Json;
use toml::Value as Toml;

#[test]
fn every_licence_is_one_of_those_allowed() {
    let policy = policy();
    let allowed = texts(&policy["licenses"]["allow"]);
    let faults: Vec<String> = packages()
        .iter()
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or_default();
            let fine = !licence.is_empty() && licence_allowed(licence, &allowed);
            (!fine).then(|| format!("{} has licence {licence:?}; deny.toml allows {allowed:?}", package["id"]))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_banned_crate_is_in_the_tree() {
    let policy = policy();
    let packages = packages();
    for ban in policy["bans"]["deny"].as_array().expect("bans.deny is a list") {
        let name = ban["crate"].as_str().expect("a ban names a crate");
        let reason = ban["reason"].as_str().expect("a ban has a reason");
        assert!(!packages.iter().any(|package| package["name"] == *name), "{name} is in the tree: {reason}");
    }
}

#[test]
fn every_crate_comes_from_a_source_that_is_allowed() {
    let policy = policy();
    let allowed: BTreeSet<String> =
        texts(&policy["sources"]["allow-registry"]).iter().map(|url| format!("registry+{url}")).collect();
    for package in packages() {
        let ours = package["source"].is_null() && package["name"] == "maelstrom";
        let source = package["source"].as_str().unwrap_or("a path");
        assert!(ours || allowed.contains(source), "{} comes from {source}", package["id"]);
    }
}

#[test]
fn a_licence_expression_is_read_as_its_author_meant_it() {
    let allowed: BTreeSet<String> = ["MIT", "Unicode-3.0", "Apache-2.0 WITH X"].map(str::to_owned).into();
    for fine in ["MIT", "GPL-3.0 OR MIT", "GPL-3.0/MIT", "(GPL-3.0 OR MIT) AND Unicode-3.0", "Apache-2.0 WITH X"] {
        assert!(licence_allowed(fine, &allowed), "{fine}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR MIT) AND BSD", "Apache-2.0", ""] {
        assert!(!licence_allowed(bad, &allowed), "{bad}");
    }
}

/// `OR` binds weaker than `AND`; `/` is an old way to write `OR`.
fn licence_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    any(&words, &mut 0, allowed)
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut fine = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        fine |= all(words, at, allowed);
    }
    fine
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut fine = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        fine &= one(words, at, allowed);
    }
    fine
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let fine = any(words, at, allowed);
        *at += 1;
        return fine;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name)
}

fn policy() -> Toml {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).expect("deny.toml");
    Toml::Table(text.parse().expect("deny.toml is TOML"))
}

fn texts(list: &Toml) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(Toml::as_str).map(str::to_owned).collect()
}

/// Every package that a build for this machine, with tests, takes in.
fn packages() -> Vec<Json> {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let about = String::from_utf8(rustc.stdout).expect("text");
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--all-features", "--format-version=1", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    assert!(packages.len() > 50, "cargo metadata lists the whole tree");
    packages
}
