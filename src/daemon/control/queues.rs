//! What the admin API can do with the queues of event sources. This node asks the service, with its own credentials.

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName as Said};

use super::Desk;
use crate::admin::api::{
    ApiError, Code, List, MessageView, PEEK_BODY, Peeked, Purged, PutAnswer, QueueRef, QueueView, Redriven, rfc3339,
};
use crate::model::Source;
use crate::model::source::{Refused, Sqs, Trigger};
use crate::source::sqs::advice::{Read, advice};
use crate::source::sqs::inspect::{self, Facts, Found, attribute};
use crate::source::sqs::trouble::{Cause, Trouble};
use crate::source::sqs::upkeep::{self, Moved};
use crate::time::Wall;

/// For all calls about one source or queue that only look. The server's deadline for a request is three times as long,
/// and what a request changes comes after this.
const LOOK: Duration = Duration::from_secs(10);

/// For the receives of a look at messages.
const PEEK: Duration = Duration::from_secs(15);

/// For looking at the queue of a source that was just put: people wait for the answer, and it is about advice.
const ADVICE: Duration = Duration::from_secs(3);

/// Queues that are looked at when a source is put: the rest of a prefix is like the first ones.
const ADVISED: usize = 5;

impl Desk {
    pub(super) async fn list_queues(&self) -> Result<List<QueueView>, ApiError> {
        let looks = self.readers().map(|source| async move { self.queues_of(&source).await });
        let views = inspect::look_at_all(looks).await;
        let mut views: Vec<QueueView> = views.into_iter().flatten().collect();
        views.sort_by(|a, b| (&a.name, &a.source).cmp(&(&b.name, &b.source)));
        Ok(self.aged(views))
    }

    pub(super) async fn peek_queue(&self, queue: QueueRef, limit: u32) -> Result<Peeked, ApiError> {
        let there = self.within(self.find_queue(&queue)).await?;
        let (found, facts) = match queue.dlq {
            true => (there.dead()?.clone(), None),
            false => (there.found, Some(there.facts)),
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let messages = tokio::time::timeout(PEEK, inspect::peek(&there.client, &found, limit)).await;
        let messages = messages.unwrap_or_else(|_| Err(Trouble::late("ReceiveMessage", &found.name)));
        let messages = messages.map_err(|trouble| refused(&trouble))?;
        let redrive = facts.and_then(|facts| facts.redrive).filter(|_| !messages.is_empty());
        let note = redrive.map(|redrive| {
            format!(
                "each message shown was received once more by this, and goes to {} after {} receives",
                redrive.name(),
                redrive.max_receives
            )
        });
        Ok(Peeked { queue: found.name, messages: messages.iter().map(message).collect(), note })
    }

    pub(super) async fn redrive_queue(&self, queue: QueueRef, max: Option<u64>) -> Result<Redriven, ApiError> {
        let there = self.within(self.find_queue(&queue)).await?;
        let dead = there.dead()?;
        let home = &there.found;
        let arn = there.facts.redrive.as_ref().map(|redrive| redrive.target.as_str()).unwrap_or_default();
        let started = match max {
            None => upkeep::start_move(&there.client, dead, arn).await.map_err(|trouble| refused(&trouble))?,
            // The service moves all or nothing.
            Some(_) => None,
        };
        let moved = match started {
            Some(moved) => moved,
            None => {
                let most = max.unwrap_or(u64::MAX);
                let moved = upkeep::move_back(&there.client, dead, home, &there.facts.arn, most).await;
                moved.map_err(|broken| {
                    let mut error = refused(&broken.trouble);
                    if broken.count > 0 {
                        error.message = format!("{} were moved, and then: {}", broken.count, error.message);
                    }
                    error
                })?
            }
        };
        let (started, moved, more) = match moved {
            Moved::Started => (true, 0, false),
            Moved::Here { count, is_cut } => (false, count, is_cut),
        };
        tracing::info!(queue = home.name, dlq = dead.name, started, moved, "dead letters were moved back");
        Ok(Redriven { queue: home.name.clone(), dlq: dead.name.clone(), started, moved, more })
    }

    pub(super) async fn purge_queue(&self, queue: QueueRef) -> Result<Purged, ApiError> {
        let there = self.within(self.find_queue(&queue)).await?;
        let (found, messages) = match queue.dlq {
            true => (there.dead()?, there.dead_facts.as_ref().map_or(0, |facts| facts.visible)),
            false => (&there.found, there.facts.visible),
        };
        upkeep::purge(&there.client, found).await.map_err(|trouble| refused(&trouble))?;
        tracing::info!(queue = found.name, messages, "a queue was emptied");
        Ok(Purged { queue: found.name.clone(), messages })
    }

    /// What is likely not meant about the queues of a source, and what could not be looked at.
    async fn advise(&self, source: &Source) -> (Vec<String>, Vec<String>) {
        let Trigger::Sqs(sqs) = &source.trigger else { return (Vec::new(), Vec::new()) };
        let look = async {
            let client = self.services.clients(&inspect::place(sqs)).await.calls;
            let mut found = inspect::find(&client, sqs).await?;
            if found.is_empty() {
                return Ok::<_, Trouble>(vec![format!("no queue has a name that starts with {}", sqs.queue)]);
            }
            found.truncate(ADVISED);
            let client = &client;
            let looks = found.into_iter().map(|queue| async move { (inspect::look(client, &queue).await, queue) });
            let (mut said, buries) = (Vec::new(), sqs.refused == Refused::DeadLetter);
            for (facts, queue) in inspect::look_at_all(looks).await {
                said.extend(advice(&Read { queue: &queue.name, facts: &facts?, buries }));
            }
            Ok(said)
        };
        match tokio::time::timeout(ADVICE, look).await {
            Ok(Ok(said)) => (said, Vec::new()),
            Ok(Err(trouble)) if trouble.cause == Cause::NoQueue => {
                (vec![format!("queue {} does not exist, as far as this node can tell", sqs.queue)], Vec::new())
            }
            Ok(Err(trouble)) => {
                (Vec::new(), vec![format!("queue {} was not looked at: {}", sqs.queue, sentence(&trouble))])
            }
            Err(_) => {
                let text = format!("queue {} was not looked at: no answer within {ADVICE:?}", sqs.queue);
                (Vec::new(), vec![text])
            }
        }
    }

    /// Adds advice about the source to the answer.
    pub(super) async fn advised(&self, source: Option<&Source>, mut answer: PutAnswer) -> PutAnswer {
        if let Some(source) = source {
            let (warnings, notes) = self.advise(source).await;
            answer.warnings.extend(warnings);
            answer.notes.extend(notes);
        }
        answer
    }

    /// The sources that read queues.
    fn readers(&self) -> impl Iterator<Item = Source> {
        let definitions = self.catalog.read();
        let sources = definitions.sources.values().map(|entry| &*entry.value);
        let readers: Vec<Source> =
            sources.filter(|source| matches!(source.trigger, Trigger::Sqs(_))).cloned().collect();
        readers.into_iter()
    }

    /// The queues of a source; what could not be found out is said in them.
    async fn queues_of(&self, source: &Source) -> Vec<QueueView> {
        let Trigger::Sqs(sqs) = &source.trigger else { return Vec::new() };
        let base = || QueueView {
            source: source.name.to_string(),
            component: source.component.to_string(),
            ..QueueView::default()
        };
        let failed = |name: &str, trouble: &Trouble| {
            vec![QueueView { name: name.to_owned(), problem: Some(sentence(trouble)), ..base() }]
        };
        let name = last(&sqs.queue);
        let look = async {
            let client = self.services.clients(&inspect::place(sqs)).await.calls;
            let found = match inspect::find(&client, sqs).await {
                Ok(found) => found,
                Err(trouble) => return failed(name, &trouble),
            };
            let client = &client;
            let looks = found.into_iter().map(|queue| async move { (There::look(client, queue.clone()).await, queue) });
            let mut views = Vec::new();
            for (there, queue) in inspect::look_at_all(looks).await {
                match there {
                    Ok(there) => views.push(there.view(base())),
                    Err(trouble) => views.extend(failed(&queue.name, &trouble)),
                }
            }
            views
        };
        let late = |_| failed(name, &Trouble::late("GetQueueAttributes", name));
        // The service does not tell the age of what waits; our pollers know that of what they hold.
        let (looked, pollers) = tokio::join!(tokio::time::timeout(LOOK, look), self.all_pollers(&source.name));
        let mut views = looked.unwrap_or_else(late);
        for view in &mut views {
            view.oldest_ms =
                pollers.iter().filter(|poller| poller.queue == view.name).filter_map(|poller| poller.oldest_ms).max();
        }
        views
    }

    /// The queue that is meant, among those that sources read.
    async fn find_queue(&self, queue: &QueueRef) -> Result<There, ApiError> {
        let reads = |sqs: &Sqs| match sqs.prefix {
            true => queue.name.starts_with(&sqs.queue),
            false => last(&sqs.queue) == queue.name,
        };
        let mut known = Vec::new();
        let mut meant: Vec<Sqs> = Vec::new();
        for source in self.readers() {
            let Trigger::Sqs(sqs) = source.trigger else { continue };
            if queue.source.as_ref().is_some_and(|name| *name != source.name) {
                continue;
            }
            if reads(&sqs) {
                meant.push(sqs);
            } else if !sqs.prefix {
                known.push(last(&sqs.queue).to_owned());
            }
        }
        let Some(sqs) = meant.first() else {
            let mut error = ApiError::not_found("queue", &queue.name, known.iter().map(String::as_str));
            error.message = format!("no event source reads a queue {}", queue.name);
            error.hint.get_or_insert_with(|| "`maelctl queue ls` shows those that are read".to_owned());
            return Err(error);
        };
        let place = inspect::place(sqs);
        if meant.iter().any(|other| inspect::place(other) != place) {
            let message = format!("several regions or endpoints have a queue {}", queue.name);
            return Err(ApiError::new(Code::Conflict, message).hint("say which source's with --source"));
        }
        let client = self.services.clients(&place).await.calls;
        let found = match sqs.queue.contains("://") {
            true => Ok(Found { name: queue.name.clone(), url: sqs.queue.clone() }),
            false => inspect::by_name(&client, &queue.name, None).await,
        };
        let there = match found {
            Ok(found) => There::look(&client, found).await,
            Err(trouble) => Err(trouble),
        };
        there.map_err(|trouble| refused(&trouble))
    }

    async fn within<T>(&self, look: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        let late = || ApiError::new(Code::Timeout, format!("the queue service did not answer within {LOOK:?}"));
        tokio::time::timeout(LOOK, look).await.unwrap_or_else(|_| Err(late().hint("try again in a moment")))
    }
}

/// A queue and its dead letters, as the service says.
struct There {
    client: Client,
    found: Found,
    facts: Facts,
    dead: Option<Result<Found, Trouble>>,
    dead_facts: Option<Facts>,
}

impl There {
    async fn look(client: &Client, found: Found) -> Result<Self, Trouble> {
        let facts = inspect::look(client, &found).await?;
        let mut dead = None;
        let mut dead_facts = None;
        if let Some(redrive) = &facts.redrive {
            let mut at = inspect::dead_letters(client, redrive).await;
            if let Ok(queue) = &at {
                match inspect::look(client, queue).await {
                    Ok(facts) => dead_facts = Some(facts),
                    Err(trouble) => at = Err(trouble),
                }
            }
            dead = Some(at);
        }
        Ok(Self { client: client.clone(), found, facts, dead, dead_facts })
    }

    fn dead(&self) -> Result<&Found, ApiError> {
        match &self.dead {
            Some(dead) => dead.as_ref().map_err(refused),
            None => Err(ApiError::new(Code::NotFound, format!("queue {} has no dead-letter queue", self.found.name))
                .hint("its redrive policy would name one")),
        }
    }

    fn view(self, base: QueueView) -> QueueView {
        let redrive = self.facts.redrive.as_ref();
        QueueView {
            name: self.found.name,
            url: Some(self.found.url),
            messages: Some(self.facts.visible),
            in_flight: Some(self.facts.in_flight),
            delayed: Some(self.facts.delayed),
            dlq: redrive.map(|redrive| redrive.name().to_owned()),
            dlq_messages: self.dead_facts.map(|facts| facts.visible + facts.in_flight),
            max_receives: redrive.map(|redrive| redrive.max_receives),
            problem: self.dead.and_then(|dead| dead.err()).map(|trouble| sentence(&trouble)),
            ..base
        }
    }
}

/// The name of a queue that is given by its name or URL.
fn last(queue: &str) -> &str {
    queue.rsplit('/').next().unwrap_or_default()
}

fn sentence(trouble: &Trouble) -> String {
    format!("{trouble}; {}", trouble.hint())
}

fn refused(trouble: &Trouble) -> ApiError {
    let code = match trouble.cause {
        Cause::NoQueue => Code::NotFound,
        Cause::Late => Code::Timeout,
        Cause::Refused | Cause::Unknown => Code::Invalid,
        Cause::NoCredentials
        | Cause::BadCredentials
        | Cause::Denied
        | Cause::NoRegion
        | Cause::Unreachable
        | Cause::Strange
        | Cause::Busy => Code::Unavailable,
    };
    ApiError::new(code, trouble.to_string()).hint(trouble.hint())
}

fn message(message: &Message) -> MessageView {
    let body = message.body().unwrap_or_default();
    let number = |name| attribute(message, &name).and_then(|text| text.parse::<u64>().ok());
    let attributes = message.message_attributes().into_iter().flatten();
    let shown = attributes.map(|(name, value)| {
        let bytes = || value.binary_value().map(|bytes| format!("({} bytes)", bytes.as_ref().len()));
        let text = value.string_value().map(|text| text[..text.floor_char_boundary(PEEK_BODY)].to_owned());
        (name.clone(), text.or_else(bytes).unwrap_or_default())
    });
    MessageView {
        id: message.message_id().unwrap_or_default().to_owned(),
        body: body[..body.floor_char_boundary(PEEK_BODY)].to_owned(),
        size: body.len() as u64,
        sent_at: number(Said::SentTimestamp).map(|at| rfc3339(Wall(at))),
        receives: number(Said::ApproximateReceiveCount),
        group: attribute(message, &Said::MessageGroupId).map(str::to_owned),
        attributes: shown.collect(),
    }
}
