//! Builds the sample component of the tests. Knows nothing of what runs it.

#![allow(missing_docs, unreachable_pub, reason = "shared by tests only")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The sample component, built once per run: cargo builds examples only when all targets are asked for.
pub fn testapp() -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("testapp-{}", std::process::id()));
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/testapp.rs");
        let mut built = std::process::Command::new(rustc);
        built.args(["--edition", "2024", "-O", "-o"]).arg(&path).arg(source);
        assert!(built.status().expect("rustc runs").success(), "the sample component does not build");
        path
    });
    BUILT.clone()
}
