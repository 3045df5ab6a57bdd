//! Lines of a log of all nodes: asks the others for theirs over a stream each, and serves those that ask.
//!
//! A stream carries the question as its first frame, and back come lines as JSON, one a line: the last ones, an empty
//! line, and then what comes if that was asked for, with an empty line now and then. Knows nothing of who wants to see
//! them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, BufWriter};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::clock::Clock;
use crate::admin::api::{LogLine, rfc3339};
use crate::gossip::Peer;
use crate::id::{ComponentName, InstanceId, NodeName};
use crate::proxy::{Question, put_question};
use crate::runtime::logs::{Follow, Followed, Line, LogBook, sanitized};
use crate::time::Wall;
use crate::transport::{DataIncoming, Transport};
use crate::wire;

/// For a stream to another node, its connection included, and for each line of its tail: some round trips, and a disk
/// that is busy.
const ANSWER: Duration = Duration::from_secs(2);

/// For all last lines of a node: 8 MiB at a megabyte a second, well below the deadline of the admin API.
const TAIL: Duration = Duration::from_secs(10);

/// Between two signs of life while nothing is written: a data connection without traffic ends after 30 s.
const BEAT: Duration = Duration::from_secs(10);

/// Without any sign of life for this long a node gives no more lines.
const SILENCE: Duration = Duration::from_secs(25);

/// Bytes of the last lines of all nodes together that are held at once. A whole book has 8 MiB, so eight nodes may send
/// theirs; of more each sends less.
const HELD: usize = 64 << 20;

/// Bytes that each may send in any case: some thousand lines, also with a hundred nodes.
const LEAST: usize = 1 << 20;

/// Bytes written at once.
const CHUNK: usize = 16 * 1024;

/// The longest line of a stream in bytes: 16 KiB of text, six times longer if JSON escapes all of it, and the rest.
const LINE_MAX: usize = 128 * 1024;

/// The longest question in bytes: two names and some numbers.
const ASK_MAX: usize = 1024;

/// Which lines of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) component: ComponentName,
    pub(crate) instance: Option<String>,
    /// How many of the last lines.
    pub(crate) tail: u32,
    /// Only those later than this, on the clock of the node that has them.
    pub(crate) after: Option<Wall>,
    /// Whether it goes on with every line as it comes.
    pub(crate) follow: bool,
    /// Bytes of the last lines at most.
    pub(crate) bytes: u64,
}

impl Ask {
    /// How many bytes each of so many nodes may send.
    pub(crate) fn share(nodes: usize) -> u64 {
        (HELD / nodes.max(1)).max(LEAST) as u64
    }
}

/// The lines of this node: the last ones, and what follows if that was asked for.
pub(crate) async fn own(logs: &Arc<LogBook>, node: &NodeName, ask: &Ask) -> (Vec<LogLine>, Option<Follow>) {
    let (logs, ask, node) = (Arc::clone(logs), ask.clone(), node.clone());
    // Reading a whole book takes milliseconds of disk: not on a thread that serves requests.
    let read = tokio::task::spawn_blocking(move || {
        let tail = usize::try_from(ask.tail).unwrap_or(usize::MAX);
        let instance = match ask.instance.as_deref().map(str::parse::<InstanceId>) {
            Some(Err(_)) => return (Vec::new(), None),
            Some(Ok(instance)) => Some(instance),
            None => None,
        };
        let (lines, follow) = match ask.follow {
            true => {
                let (lines, follow) = logs.follow(&ask.component, tail, instance.as_ref());
                (lines, Some(follow))
            }
            false => (logs.tail(&ask.component, tail, instance.as_ref()), None),
        };
        let is_late = |line: &&Line| ask.after.is_none_or(|after| line.at > after);
        (fitting(lines.iter().filter(is_late).map(|line| log_line(line, &node)).collect(), ask.bytes, &node), follow)
    });
    read.await.unwrap_or_default()
}

/// The last of them that fit, with a word on what does not.
fn fitting(lines: Vec<LogLine>, bytes: u64, node: &NodeName) -> Vec<LogLine> {
    let mut held = 0;
    let fit = lines.iter().rev().take_while(|line| {
        held += line.text.len() as u64 + 100;
        held <= bytes
    });
    let left_out = lines.len() - fit.count();
    let mut fit: Vec<LogLine> = lines.into_iter().skip(left_out).collect();
    if left_out > 0 {
        let text = format!("{left_out} lines before this one were left out: too much at once");
        let at = fit.first().map_or_else(|| rfc3339(Clock::wall()), |line| line.at.clone());
        fit.insert(0, LogLine { at, ..system(node, text) });
    }
    fit
}

/// The next line that is written here; none at the end.
pub(crate) async fn next(follow: &mut Follow, node: &NodeName) -> Option<LogLine> {
    Some(match follow.next().await? {
        Followed::Line(line) => log_line(&line, node),
        Followed::Gap(count) => system(node, format!("{count} lines were passed over: the reader was too slow")),
    })
}

fn log_line(line: &Line, node: &NodeName) -> LogLine {
    LogLine {
        at: rfc3339(line.at),
        node: node.to_string(),
        instance: line.instance.to_string(),
        stream: line.stream.to_string(),
        text: sanitized(&line.text).into_owned(),
        missing: false,
    }
}

fn system(node: &NodeName, text: String) -> LogLine {
    let (at, stream) = (rfc3339(Clock::wall()), "system".to_owned());
    LogLine { at, node: node.to_string(), instance: String::new(), stream, text, missing: false }
}

/// A word in place of lines that do not come.
pub(crate) fn missing(node: &str, text: String) -> LogLine {
    let (at, stream) = (rfc3339(Clock::wall()), "system".to_owned());
    LogLine { at, node: node.to_owned(), instance: String::new(), stream, text, missing: true }
}

/// Lines of several nodes as one: by time, those of each node in their order, the last `tail` of all.
pub(crate) fn merge(nodes: Vec<Vec<LogLine>>, tail: usize) -> Vec<LogLine> {
    let all = nodes.iter().map(Vec::len).sum::<usize>();
    let mut nodes: Vec<_> = nodes.into_iter().map(|lines| lines.into_iter().peekable()).collect();
    let mut merged = Vec::with_capacity(all);
    loop {
        // The form of RFC 3339 that the API writes sorts like the moments.
        let heads = nodes.iter_mut().enumerate().filter_map(|(at, lines)| Some((lines.peek()?.at.clone(), at)));
        let Some((_, earliest)) = heads.min() else { break };
        merged.extend(nodes[earliest].next());
    }
    merged.split_off(all.saturating_sub(tail))
}

/// Serves a node that asks, until it has all, or wants no more.
pub(crate) async fn serve<A>(logs: Arc<LogBook>, node: NodeName, question: Question<A>)
where
    A: Future<Output = ()>,
{
    let Question { bytes, send, abandoned } = question;
    let Ok(ask) = wire::decode::<Ask, ASK_MAX>(&bytes) else {
        return tracing::debug!("a question of another node cannot be read");
    };
    tokio::select! {
        () = abandoned => {}
        written = write(&logs, &node, &ask, send) => {
            // Who asked has gone.
            let _ = written.inspect_err(|error| tracing::debug!(%error, "lines for another node were not taken"));
        }
    }
}

async fn write(
    logs: &Arc<LogBook>,
    node: &NodeName,
    ask: &Ask,
    send: Box<dyn AsyncWrite + Send + Unpin>,
) -> std::io::Result<()> {
    let mut send = BufWriter::with_capacity(CHUNK, send);
    let (lines, follow) = own(logs, node, ask).await;
    for line in lines {
        send.write_all(&encoded(&line)).await?;
    }
    send.write_all(b"\n").await?;
    send.flush().await?;
    let Some(mut follow) = follow else { return send.shutdown().await };
    loop {
        let bytes = match tokio::time::timeout(BEAT, next(&mut follow, node)).await {
            Ok(Some(line)) => encoded(&line),
            Ok(None) => return send.shutdown().await,
            Err(_) => b"\n".to_vec(),
        };
        send.write_all(&bytes).await?;
        send.flush().await?;
    }
}

fn encoded(line: &LogLine) -> Vec<u8> {
    // A struct of texts can always be written.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The lines of another node.
pub(crate) struct PeerLines {
    lines: FramedRead<DataIncoming, LinesCodec>,
}

impl PeerLines {
    /// Asks a node; gives its last lines, and what the others come from. Says why if it does not answer.
    pub(crate) async fn ask(transport: &Transport, peer: Peer, ask: &Ask) -> Result<(Vec<LogLine>, Self), String> {
        let late = |_| "it did not answer in time".to_owned();
        let asking = async {
            let stream = transport.open_data(peer.node, peer.address, ANSWER).await;
            let (receive, mut send) = stream.map_err(|error| error.to_string())?.into_halves();
            let mut question = BytesMut::new();
            put_question(&mut question, &wire::encode(ask).map_err(|error| error.to_string())?);
            send.write_all(&question).await.map_err(|error| error.to_string())?;
            send.shutdown().await.map_err(|error| error.to_string())?;
            let mut peer = Self { lines: FramedRead::new(receive, LinesCodec::new_with_max_length(LINE_MAX)) };
            let tail = peer.tail(ask).await?;
            Ok((tail, peer))
        };
        tokio::time::timeout(TAIL, asking).await.map_err(late)?
    }

    async fn tail(&mut self, ask: &Ask) -> Result<Vec<LogLine>, String> {
        let (mut tail, mut bytes) = (Vec::new(), 0);
        loop {
            let line = tokio::time::timeout(ANSWER, self.lines.next()).await;
            let line = match line.map_err(|_| "it did not answer in time".to_owned())? {
                None => return Err("it broke off".to_owned()),
                Some(line) => line.map_err(|error| error.to_string())?,
            };
            if line.is_empty() {
                return Ok(tail);
            }
            bytes += line.len() as u64;
            // Twice: what is around a text, and what JSON escapes of it.
            if bytes > ask.bytes.saturating_mul(2).max(LINE_MAX as u64 * 2) {
                return Err("it sent more than it was asked for".to_owned());
            }
            tail.push(serde_json::from_str(&line).map_err(|error| error.to_string())?);
        }
    }

    /// The next line; none if there will be no more.
    pub(crate) async fn next(&mut self) -> Option<LogLine> {
        loop {
            let line = tokio::time::timeout(SILENCE, self.lines.next()).await.ok()??.ok()?;
            if !line.is_empty() {
                return serde_json::from_str(&line).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(node: &str, times: &[u64]) -> Vec<LogLine> {
        let line =
            |at: &u64| LogLine { at: rfc3339(Wall(*at)), text: format!("{node} {at}"), ..missing(node, "".into()) };
        times.iter().map(line).collect()
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_of_nodes_are_put_together_by_time_and_the_last_of_all_stay() {
        let merged = merge(vec![lines("a", &[1, 5, 5]), lines("b", &[]), lines("c", &[2, 5, 9])], 4);
        assert_eq!(texts(&merged), ["a 5", "a 5", "c 5", "c 9"]);
        assert!(merge(vec![lines("a", &[1])], 0).is_empty());
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_turn_the_lines_of_its_node_around() {
        let merged = merge(vec![lines("a", &[7, 3, 8]), lines("b", &[5])], 9);
        assert_eq!(texts(&merged), ["b 5", "a 7", "a 3", "a 8"]);
    }

    #[test]
    fn what_does_not_fit_is_left_out_at_the_beginning_and_said() {
        let node: NodeName = "n1".parse().expect("a name");
        let all = lines("a", &[1, 2, 3]);
        assert_eq!(fitting(all.clone(), 1000, &node), all);
        let fit = fitting(all.clone(), 250, &node);
        assert_eq!(texts(&fit)[1..], ["a 2", "a 3"]);
        assert!(fit[0].text.contains("1 lines before this one were left out"), "{}", fit[0].text);
        assert!(fitting(all, 0, &node)[0].text.starts_with("3 lines"));
    }
}
