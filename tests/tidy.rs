//! Guards the house: who may import whom, what the cores must not touch, and that every file says what it is for.
//!
//! Reads the sources as text, needs nothing but std, and runs without the feature `daemon`. The checker is tested on
//! small strings at the end of this file, so that it is seen to fail.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// One row of the floor table. An import that no row grants fails with `why`.
struct Row {
    floor: u8,
    modules: &'static [&'static str],
    /// Every module of these floors may be imported.
    floors: &'static [u8],
    /// And these modules, or one public part of a module (`runtime::logs`).
    also: &'static [&'static str],
    why: &'static str,
}

/// The floors, lowest first. Modules that are not written yet may stand here; a module in `src/` that does not stand
/// here fails.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { floor: 1, modules: &["id", "time", "rng", "hash", "wire"], floors: &[], also: &[],
          why: "words stand on std, serde and crates without IO" },
    Row { floor: 1, modules: &["failure"], floors: &[], also: &["id"],
          why: "a failure names ids and nothing else" },
    Row { floor: 1, modules: &["model", "slots"], floors: &[], also: &["id", "time"],
          why: "definitions and claims are values: names and moments are all they need" },
    Row { floor: 2, modules: &["crdt", "gossip", "router", "activation", "placement", "rollout", "schedule", "consumer", "timeline"], floors: &[1], also: &[],
          why: "a core imports words, never a sibling: what two cores share goes through the node" },
    Row { floor: 3, modules: &["node"], floors: &[1, 2], also: &[],
          why: "the node joins the cores and does no IO" },
    Row { floor: 3, modules: &["simulations"], floors: &[1, 2, 3], also: &[],
          why: "a simulated world plays the shell, so it sees floors 1 to 3" },
    Row { floor: 4, modules: &["telemetry"], floors: &[1], also: &[],
          why: "telemetry is below the other adapters" },
    Row { floor: 4, modules: &["intake"], floors: &[1], also: &["telemetry"],
          why: "an adapter imports words; facts reach the node through the daemon, never by a call upward" },
    Row { floor: 4, modules: &["runtime"], floors: &[1], also: &["telemetry"],
          why: "a runtime carries out: it knows nothing of requests, queues or the registry" },
    Row { floor: 4, modules: &["proxy"], floors: &[1], also: &["telemetry", "intake", "router"],
          why: "the proxy delivers to a slot that intake gave; it knows no source" },
    Row { floor: 4, modules: &["source"], floors: &[1], also: &["telemetry", "intake", "router", "proxy", "schedule", "consumer"],
          why: "a source finds the component in the routes and hands the event to the proxy; some carry out a schedule or read a queue" },
    Row { floor: 4, modules: &["store"], floors: &[1], also: &["telemetry", "crdt"],
          why: "the store keeps rows of the registry and decides nothing" },
    Row { floor: 4, modules: &["transport"], floors: &[1], also: &["telemetry"],
          why: "the transport moves bytes between nodes that trust each other and reads none of them" },
    Row { floor: 4, modules: &["admin"], floors: &[1], also: &["telemetry", "runtime::logs"],
          why: "the admin API speaks in words of its own; of the runtimes it sees the logs alone" },
    Row { floor: 5, modules: &["config"], floors: &[1, 2, 3, 4], also: &[],
          why: "config gathers the settings of everything below" },
    Row { floor: 5, modules: &["daemon"], floors: &[1, 2, 3, 4], also: &["config"],
          why: "the daemon assembles everything below; only bin/ imports it" },
    Row { floor: 6, modules: &["bin"], floors: &[], also: &["daemon", "config", "admin", "model", "id", "telemetry"],
          why: "a binary parses, calls and prints: the parts are the daemon's" },
];

/// What floors 1 to 3 must not name outside their tests, and why. One name stands for the crate or type and all below.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "a core has no runtime: facts and a time go in, effects come out"),
    ("hyper", "a core moves no bytes"),
    ("tracing", "a core says what happened in its effects"),
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("std::fs", "a core does no IO"),
    ("std::process", "a core starts nothing"),
    ("std::env", "settings are arguments"),
    ("TcpStream", "a core does no IO"),
    ("TcpListener", "a core does no IO"),
    ("UdpSocket", "a core does no IO"),
];

/// Macros that do not land.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

const ALL: &[&str] = &["src", "bin", "simulations", "tests"];

#[test]
fn every_import_follows_the_floor_table() {
    let files = rust_files(&["src", "bin", "simulations"]);
    none(files.iter().flat_map(|file| import_faults(&file.path, &file.text)).collect());
}

#[test]
fn cores_do_no_io_and_read_no_clock() {
    let files = rust_files(&["src"]);
    let is_core = |path: &str| row_of(&top_module(path)).is_some_and(|row| row.floor <= 3);
    let cores = files.iter().filter(|file| is_core(&file.path) && !file.path.ends_with("/tests.rs"));
    none(cores.flat_map(|file| purity_faults(&file.path, &file.text)).collect());
}

#[test]
fn every_file_says_what_it_is_for_and_nothing_is_silenced_or_unfinished() {
    none(rust_files(ALL).iter().flat_map(|file| file_faults(&file.path, &file.text)).collect());
}

#[test]
fn every_module_stands_in_the_floor_table_and_in_the_architecture() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut faults = Vec::new();
    for file in rust_files(&["src"]) {
        let module = top_module(&file.path);
        if module == "lib" || file.path.matches('/').count() > 1 {
            continue;
        }
        if row_of(&module).is_none() {
            faults.push(format!("{}: module `{module}` is not in the floor table of tests/tidy.rs", file.path));
        }
        if !map.contains(&format!("`{module}`")) {
            faults.push(format!("{}: ARCHITECTURE.md does not name `{module}` (in backticks)", file.path));
        }
    }
    none(faults);
}

#[test]
fn every_file_is_part_of_a_target() {
    // A file that nobody declares is never compiled, and a test file that Cargo.toml does not name (autotests is off)
    // never runs: both look fine and do nothing.
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let files = rust_files(ALL);
    let declared: BTreeMap<&str, Vec<String>> =
        files.iter().map(|file| (file.path.as_str(), modules_declared(&file.text))).collect();
    let mut faults = Vec::new();
    for file in &files {
        let in_manifest = file.path == "src/lib.rs" || manifest.contains(&format!("\"{}\"", file.path));
        let (parents, name) = parents(&file.path, &files);
        let has = |parent: &String| declared.get(parent.as_str()).is_some_and(|names| names.contains(&name));
        if !in_manifest && !parents.iter().any(has) {
            faults.push(format!("{}: no parent says `mod {name};` and Cargo.toml does not name it", file.path));
        }
        if file.path.ends_with("/mod.rs") && !file.path.starts_with("tests/") {
            faults.push(format!("{}: name it after its module, beside the folder of its parts", file.path));
        }
    }
    none(faults);
}

#[test]
fn reviewers_see_the_longest_files_and_functions() {
    let mut files = Vec::new();
    let mut functions = Vec::new();
    for file in rust_files(ALL) {
        files.push((file.text.lines().count(), file.path.clone()));
        for (lines, name) in function_lengths(&file.text) {
            functions.push((lines, format!("{}: {name}", file.path)));
        }
    }
    for (what, mut rows) in [("files", files), ("functions", functions)] {
        rows.sort_by(|a, b| b.cmp(a));
        let mut text = format!("The ten longest {what} (no limit; is each still one idea?)\n");
        for (lines, name) in rows.iter().take(10) {
            let _ = writeln!(text, "{lines:>6}  {name}");
        }
        println!("{text}");
    }
}

// ---- what is checked in one file ------------------------------------------------------------------------------------

fn import_faults(path: &str, text: &str) -> Vec<String> {
    let module = top_module(path);
    let Some(row) = row_of(&module) else {
        return Vec::new(); // lib.rs, or a module that the test of the table reports.
    };
    references(path, &tokens(text))
        .into_iter()
        .filter(|found| found.path[0] != module && !granted(row, &found.path))
        .map(|found| format!("{path}:{}: `{module}` imports `{}`: {}", found.line, found.path.join("::"), row.why))
        .collect()
}

fn granted(row: &Row, path: &[String]) -> bool {
    let by_floor = row_of(&path[0]).is_some_and(|target| row.floors.contains(&target.floor));
    by_floor
        || row.also.iter().any(|entry| {
            let entry: Vec<&str> = entry.split("::").collect();
            path.len() >= entry.len() && path.iter().zip(&entry).all(|(have, want)| have == want)
        })
}

fn purity_faults(path: &str, text: &str) -> Vec<String> {
    let tokens = without_tests(&tokens(text));
    let mut faults = Vec::new();
    for at in 0..tokens.len() {
        for (banned, why) in IMPURE {
            let parts: Vec<&str> = banned.split("::").collect();
            let named = parts.iter().enumerate().all(|(step, part)| {
                let here = at + 2 * step;
                is(&tokens, here, part) && (step == 0 || is(&tokens, here - 1, "::"))
            });
            // A crate is named by what follows it; a variable may have the same name.
            let is_crate = parts.len() == 1 && part_is_lower(parts[0]);
            if named && (!is_crate || is(&tokens, at + 1, "::")) {
                faults.push(format!("{path}:{}: a core names `{banned}`: {why}", tokens[at].line));
            }
        }
    }
    faults
}

fn file_faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{path}:1: open with `//!`: what is the file for, and what must it not know?"));
    }
    let tokens = tokens(text);
    for pair in tokens.windows(2) {
        if pair[1].text == "!" && UNFINISHED.contains(&pair[0].text.as_str()) {
            faults.push(format!("{path}:{}: `{}!` does not land", pair[0].line, pair[0].text));
        }
    }
    let ours = path.starts_with("src/") || path.starts_with("bin/");
    for attribute in attributes(&tokens) {
        let line = attribute[0].line;
        let calls = |name| attribute.windows(2).any(|pair| pair[0].text == name && pair[1].text == "(");
        let has_reason = attribute.iter().any(|token| token.text == "reason");
        if calls("allow") && (ours || !has_reason) {
            faults.push(format!("{path}:{line}: `allow` outlives its cause: `expect(lint, reason = \"...\")`"));
        }
        if calls("expect") && !has_reason {
            faults.push(format!("{path}:{line}: `expect` without a reason"));
        }
        if attribute[0].text == "ignore" {
            faults.push(format!("{path}:{line}: an ignored test is no test: mend it or delete it"));
        }
    }
    faults
}

// ---- reading Rust, as far as needed ---------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq)]
struct Token {
    line: usize,
    text: String,
}

/// Words, `::`, and single signs. Comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let mut out = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        match (chars[at], peek(at + 1)) {
            ('/', '/') => at += chars[at..].iter().take_while(|sign| **sign != '\n').count(),
            ('/', '*') => at = comment_end(&chars, at),
            ('"', _) => at = string_end(&chars, at, '"'),
            // A lifetime has no quote right after its first letter.
            ('\'', next) => {
                at = if next == '\\' || peek(at + 2) == '\'' { string_end(&chars, at, '\'') } else { at + 1 }
            }
            (':', ':') => {
                out.push(Token { line, text: "::".into() });
                at += 2;
            }
            (sign, _) if is_word(sign) => {
                at += chars[at..].iter().take_while(|sign| is_word(**sign)).count();
                let word: String = chars[start..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|sign| **sign == '#').count();
                if matches!(word.as_str(), "r" | "br" | "cr") && peek(at + hashes) == '"' {
                    at = raw_string_end(&chars, at + hashes, hashes);
                } else if !(matches!(word.as_str(), "b" | "c") && matches!(peek(at), '"' | '\'')) {
                    out.push(Token { line, text: word });
                }
            }
            (sign, _) => {
                if !sign.is_whitespace() {
                    out.push(Token { line, text: sign.into() });
                }
                at += 1;
            }
        }
        at = at.min(chars.len());
        line += chars[start..at].iter().filter(|sign| **sign == '\n').count();
    }
    out
}

fn is_word(sign: char) -> bool {
    sign.is_alphanumeric() || sign == '_'
}

fn part_is_lower(word: &str) -> bool {
    word.starts_with(|sign: char| sign.is_lowercase())
}

fn comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], open: usize, quote: char) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_end(chars: &[char], open: usize, hashes: usize) -> usize {
    let closes = |at: &usize| chars[*at] == '"' && chars[at + 1..].iter().take(hashes).all(|sign| *sign == '#');
    (open + 1..chars.len()).find(closes).map_or(chars.len(), |end| end + 1 + hashes)
}

fn is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|token| token.text == text)
}

fn is_name(tokens: &[Token], at: usize) -> bool {
    tokens.get(at).is_some_and(|token| token.text.starts_with(is_word))
}

/// Where the bracket at `open` closes; the last token if it does not.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// The inside of every `#[...]` and `#![...]`; never empty.
fn attributes(tokens: &[Token]) -> Vec<&[Token]> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let open = at + if is(tokens, at + 1, "!") { 2 } else { 1 };
        if is(tokens, at, "#") && is(tokens, open, "[") {
            let inside = &tokens[open + 1..closing(tokens, open).max(open + 1)];
            if !inside.is_empty() {
                found.push(inside);
            }
        }
    }
    found
}

/// The tokens outside `#[cfg(test)] mod ... { ... }`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let opening = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let body = at + opening.len() + 1;
        if opening.iter().enumerate().all(|(step, part)| is(tokens, at + step, part)) && is(tokens, body, "{") {
            at = closing(tokens, body) + 1;
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

struct Reference {
    line: usize,
    path: Vec<String>,
}

/// Every path into the library: `crate::a::b` in `src/`, `maelstrom::a::b` elsewhere, and `super::` where it climbs to
/// the root of the crate. Groups are spread out.
fn references(path: &str, tokens: &[Token]) -> Vec<Reference> {
    let inside = path.starts_with("src/");
    let file_depth = if path == "src/lib.rs" { 0 } else { path.matches('/').count() };
    let mut found = Vec::new();
    let mut blocks = Vec::new(); // For each open brace: whether it is that of an inline module.
    for at in 0..tokens.len() {
        let starts = at == 0 || !is(tokens, at - 1, "::");
        match tokens[at].text.as_str() {
            "{" => blocks.push(at >= 2 && is(tokens, at - 2, "mod")),
            "}" => drop(blocks.pop()),
            "crate" if starts && inside => spread(tokens, at + 1, &[], &mut found),
            "maelstrom" if starts && !inside => spread(tokens, at + 1, &[], &mut found),
            "super" if starts && inside => {
                let depth = file_depth + blocks.iter().filter(|module| **module).count();
                let climbs = (0..).take_while(|step| is(tokens, at + 2 * step, "super")).count();
                if climbs >= depth {
                    spread(tokens, at + 2 * climbs - 1, &[], &mut found);
                }
            }
            _ => {}
        }
    }
    found
}

/// Follows a path whose next `::` stands at `at`, into its groups.
fn spread(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Reference>) {
    let mut path = prefix.to_vec();
    while is(tokens, at, "::") && is_name(tokens, at + 1) {
        path.push(tokens[at + 1].text.clone());
        at += 2;
    }
    if !(is(tokens, at, "::") && is(tokens, at + 1, "{")) {
        if !path.is_empty() {
            found.push(Reference { line: tokens[at - 1].line, path });
        }
        return;
    }
    let end = closing(tokens, at + 1);
    let mut item = at + 2;
    while item < end {
        let mut inner = path.clone();
        if is_name(tokens, item) && !is(tokens, item, "self") {
            inner.push(tokens[item].text.clone());
        }
        spread(tokens, item + 1, &inner, found);
        while item < end && !is(tokens, item, ",") {
            item = if is(tokens, item, "{") { closing(tokens, item) } else { item } + 1;
        }
        item += 1;
    }
}

fn modules_declared(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let declared = tokens.windows(3).filter(|three| three[0].text == "mod" && three[2].text == ";");
    declared.map(|three| three[1].text.clone()).collect()
}

/// The files that could declare this one, and the name it would have there.
fn parents(path: &str, files: &[File]) -> (Vec<String>, String) {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut parents: Vec<String> =
        ["main.rs", "lib.rs", "mod.rs"].iter().map(|file| format!("{folder}/{file}")).collect();
    parents.push(format!("{folder}.rs"));
    if let Some(top) = ["tests", "simulations"].into_iter().find(|top| folder.starts_with(top)) {
        // Every test may say `mod support;` or give the path of a part that it needs.
        parents.extend(files.iter().filter(|file| file.path.starts_with(top)).map(|file| file.path.clone()));
    }
    (parents, name.to_owned())
}

fn function_lengths(text: &str) -> Vec<(usize, String)> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if is(&tokens, at, "fn") && is_name(&tokens, at + 1) {
            let body = (at..tokens.len()).find(|at| is(&tokens, *at, "{") || is(&tokens, *at, ";"));
            if let Some(open) = body.filter(|open| is(&tokens, *open, "{")) {
                let lines = tokens[closing(&tokens, open)].line - tokens[at].line + 1;
                found.push((lines, tokens[at + 1].text.clone()));
            }
        }
    }
    found
}

// ---- the tree -------------------------------------------------------------------------------------------------------

struct File {
    /// From the root of the repository, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folders: &[&str]) -> Vec<File> {
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| File {
        text: fs::read_to_string(&path).expect("a source file is text"),
        path: path.strip_prefix(root()).expect("it is below the root").to_string_lossy().into_owned(),
    };
    paths.into_iter().map(read).collect()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return; // A folder of the plan that is not there yet.
    };
    for entry in entries {
        let path = entry.expect("a folder that can be read").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The name that the table has for a file: the module below `src/`, or `bin`, or `simulations`.
fn top_module(path: &str) -> String {
    let mut parts = path.split('/');
    let folder = parts.next().unwrap_or_default();
    let module = if folder == "src" { parts.next().unwrap_or_default() } else { folder };
    module.trim_end_matches(".rs").to_owned()
}

fn row_of(module: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.modules.contains(&module))
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

// ---- the checker itself ---------------------------------------------------------------------------------------------

/// The imports of this text that are refused.
fn refused(path: &str, text: &str) -> Vec<String> {
    import_faults(path, text).iter().map(|fault| fault.split('`').nth(3).unwrap_or_default().to_owned()).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn an_import_of_a_sibling_core_is_refused_however_it_is_written() {
    assert_eq!(refused("src/router.rs", "use crate::crdt::Row;"), ["crdt::Row"]);
    assert_eq!(refused("src/router/table.rs", "fn f() { crate::crdt::merge() }"), ["crdt::merge"]);
    assert_eq!(refused("src/router.rs", "use super::crdt::Row;"), ["crdt::Row"]);
    assert_eq!(refused("src/router/table.rs", "use super::super::crdt;"), ["crdt"]);
    assert_eq!(refused("src/router.rs", "mod t { use super::super::crdt; }"), ["crdt"]);
    assert_eq!(
        refused("src/router.rs", "use crate::{id::Name, crdt::{Row, self}, node};"),
        ["crdt::Row", "crdt", "node"]
    );
}

#[test]
fn words_parts_of_the_same_module_tests_and_texts_are_not_refused() {
    assert_eq!(refused("src/router/table.rs", "use super::pattern::Host; use crate::model::Http;"), NOTHING);
    assert_eq!(refused("src/router.rs", "mod tests { use super::*; } // crate::crdt"), NOTHING);
    assert_eq!(refused("src/router.rs", "const A: &str = \"crate::crdt::x\"; pub(crate) fn f() {}"), NOTHING);
    assert_eq!(refused("bin/maelctl/main.rs", "mod node; use crate::node::ls; use maelstrom::admin::Client;"), NOTHING);
}

#[test]
fn a_grant_for_a_part_of_a_module_holds_for_that_part_alone() {
    assert_eq!(
        refused("src/admin.rs", "use crate::runtime::logs::Line; use crate::runtime::Owner;"),
        ["runtime::Owner"]
    );
    assert_eq!(refused("src/admin.rs", "use crate::runtime;"), ["runtime"]);
    assert_eq!(refused("bin/maelctl/main.rs", "use maelstrom::{admin, node};"), ["node"]);
    assert_eq!(refused("simulations/world.rs", "use maelstrom::proxy::X; use maelstrom::node::Node;"), ["proxy::X"]);
}

#[test]
fn the_table_names_each_module_once_and_never_looks_up() {
    let mut seen = Vec::<&str>::new();
    for row in TABLE {
        let also = row.also.iter().map(|entry| {
            let module = entry.split("::").next().expect("a name");
            row_of(module).expect("a grant names a module of the table").floor
        });
        assert!(also.chain(row.floors.iter().copied()).all(|floor| floor <= row.floor), "{:?}", row.modules);
        seen.extend(row.modules);
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[test]
fn io_and_clocks_are_seen_in_a_core_and_not_in_its_tests() {
    let count = |text: &str| purity_faults("src/node.rs", text).len();
    assert_eq!(count("use tokio::sync::watch;"), 1);
    assert_eq!(count("fn f() { let a = std::time::Instant::now(); }"), 1);
    assert_eq!(count("fn f() { let a = SystemTime::now(); }"), 1);
    assert_eq!(count("use std::fs; fn f() { fs::read(1); }"), 1);
    assert_eq!(count("fn f(s: TcpStream) {}"), 1);
    assert_eq!(count("fn f() { let hyper = 1; } // tokio::spawn"), 0);
    assert_eq!(count("use std::time::Duration;\n#[cfg(test)]\nmod tests { fn f() { std::fs::read(1); } }"), 0);
    assert_eq!(count("#[cfg(test)]\nmod tests { }\nuse std::fs;"), 1);
}

#[test]
fn a_silenced_lint_an_ignored_test_and_an_unfinished_line_are_seen() {
    let count = |path: &str, text: &str| file_faults(path, &format!("//! x\n{text}")).len();
    assert_eq!(file_faults("src/a.rs", "use std::fmt;").len(), 1);
    assert_eq!(count("src/a.rs", "#[allow(dead_code)] fn f() {}"), 1);
    assert_eq!(count("src/a.rs", "#![allow(dead_code, reason = \"x\")]"), 1);
    assert_eq!(count("tests/a.rs", "#![allow(dead_code, reason = \"x\")]"), 0);
    assert_eq!(count("src/a.rs", "#[expect(dead_code)] fn f() {}"), 1);
    assert_eq!(count("src/a.rs", "#[expect(dead_code, reason = \"x\")] fn f() { a.expect(\"b\") }"), 0);
    assert_eq!(count("src/a.rs", "#[cfg_attr(x, allow(y))] struct A;"), 1);
    assert_eq!(count("tests/a.rs", "#[test] #[ignore = \"slow\"] fn f() {}"), 1);
    assert_eq!(count("src/a.rs", "fn f() { todo!() } // dbg!(1)"), 1);
    assert_eq!(count("src/a.rs", "const A: &str = \"todo!()\";"), 0);
}

#[test]
fn strings_comments_and_lifetimes_do_not_mislead_the_reader() {
    let words = |text: &str| tokens(text).into_iter().map(|token| token.text).collect::<Vec<_>>().join(" ");
    assert_eq!(words("a /* b /* c */ d */ e // f\ng"), "a e g");
    assert_eq!(words(r##"a "b\"c" d r#"e"f"# g b"h" i"##), "a d g i");
    assert_eq!(words(r"&'a str 'x' '\'' '\n' b'y' z"), "& a str z");
    assert_eq!(tokens("a\n\"x\ny\"\nb").last().map(|token| token.line), Some(4));
    let lengths = function_lengths("fn a() {\n}\ntrait T { fn b(); }\nfn c()\nwhere\n{\n}");
    assert_eq!(lengths, [(2, "a".to_owned()), (4, "c".to_owned())]);
}
