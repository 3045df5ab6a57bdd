//! `maelctl cfg put`: creates or replaces a setting.
//!
//! Says nothing of the value, not even when it is refused.

use std::io::Read as _;

use maelstrom::admin::api::Expect;
use maelstrom::model::cfg::{CfgName, VALUE_MAX};

use super::{Whose, name};
use crate::context::Context;
use crate::exit::{Exit, Failure};

const EXAMPLES: &str = "\
Examples:
  maelctl cfg put LOG_LEVEL=debug
  maelctl cfg put LOG_LEVEL=trace --component api
  maelctl cfg put TLS_KEY --secret --file /etc/ssl/private/api.key
  pass show db | maelctl cfg put DATABASE_URL --secret --file -
";

const AFTER: &str = "\
A secret is encrypted in the registry and never shown again. Give it by --file: a command line is seen by others on the
machine, and kept by your shell. As a variable a value loses the line feeds at its end, as a file it stays as it is.";

#[derive(Debug, clap::Args)]
#[command(before_help = EXAMPLES, after_help = AFTER)]
pub(crate) struct Args {
    /// Its name and its value; or its name, with --file
    #[arg(value_name = "NAME[=VALUE]")]
    what: String,
    /// Read the value from here; `-` is stdin
    #[arg(short, long, value_name = "PATH")]
    file: Option<String>,
    /// Encrypt it, and never show it again
    #[arg(long)]
    secret: bool,
    #[command(flatten)]
    whose: Whose,
    /// Only if it has this version now (else exit code 6)
    #[arg(long, value_name = "VERSION", conflicts_with = "if_absent")]
    if_version: Option<String>,
    /// Only if it does not exist yet (else exit code 6)
    #[arg(long)]
    if_absent: bool,
    /// Check and say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let (name, value) = value(&args.what, args.file.as_deref())?;
    let expect = match args.if_version {
        Some(version) => Expect::Version(version),
        None if args.if_absent => Expect::Absent,
        None => Expect::Any,
    };
    let key = args.whose.key(&name);
    let what = if args.secret { "secret" } else { "setting" };
    let answer = context.client.put_setting(&key, value, args.secret, &expect, args.dry_run).await;
    context.put(what, answer, args.dry_run)
}

/// The name and the value, out of the two places where the latter may be.
fn value(what: &str, file: Option<&str>) -> Result<(CfgName, Vec<u8>), Failure> {
    let (given, value) = match what.split_once('=') {
        Some((given, value)) => (given, Some(value)),
        None => (what, None),
    };
    let name = name(given).map_err(|problem| Failure::usage(format!("name {given:?} {problem}")))?;
    let value = match (value, file) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage(format!("{name} has a value and a --file")).hint("give one of the two"));
        }
        (None, None) => {
            return Err(Failure::usage(format!("{name} has no value"))
                .hint(format!("{name}=VALUE, or --file PATH; --file - reads stdin")));
        }
        (Some(value), None) => value.as_bytes().to_vec(),
        (None, Some(file)) => read(file)?,
    };
    if value.len() > VALUE_MAX {
        let message = format!("{name} is larger than the {VALUE_MAX} bytes that the registry keeps of one setting");
        return Err(Failure::new(Exit::Failure, message).hint("mount a volume, or put the file into the image"));
    }
    Ok((name, value))
}

/// Not more than is needed to see that it is too much.
fn read(path: &str) -> Result<Vec<u8>, Failure> {
    let shown = if path == "-" { "stdin" } else { path };
    let failed = |error: std::io::Error| Failure::new(Exit::Failure, format!("cannot read {shown}: {error}"));
    let (mut bytes, limit) = (Vec::new(), VALUE_MAX as u64 + 1);
    let read = match path {
        "-" => std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
        path => std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes),
    };
    read.map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_on_the_line_or_in_a_file_and_in_no_refusal() {
        let (name, text) = value("A=b=c", None).expect("a value");
        assert_eq!((name.as_str(), &*text), ("A", &b"b=c"[..]));
        assert_eq!(value("A=", None).expect("empty").1, b"");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, b"a\n\xff").expect("written");
        let path = file.path().to_str().expect("text");
        assert_eq!(value("A", Some(path)).expect("a file").1, b"a\n\xff");
        std::fs::write(&file, vec![b'x'; VALUE_MAX + 1]).expect("written");
        for (what, file) in
            [("A", None), ("A=hush", Some("x")), ("1=hush", None), ("A", Some(path)), ("A", Some("/does/not/exist"))]
        {
            let failure = format!("{:?}", value(what, file).expect_err(what));
            assert!(!failure.contains("hush") && !failure.contains("xxx"), "{failure}");
        }
    }
}
