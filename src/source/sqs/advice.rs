//! What is allowed and likely not meant about a queue and the source that reads it.
//!
//! Pure: from what a queue says of itself to sentences. Refuses nothing.

use super::inspect::Facts;

/// Fewer receives than this turn a restart or two, of which nobody is to blame, into dead letters.
const RECEIVES: u32 = 3;

/// What is known of a source and its queue.
#[derive(Debug)]
pub struct Read<'a> {
    /// The queue's name.
    pub queue: &'a str,
    /// What it says of itself.
    pub facts: &'a Facts,
    /// Whether messages that the component refuses are to go to the dead letters at once.
    pub buries: bool,
}

/// Sentences, the gravest first.
pub fn advice(read: &Read<'_>) -> Vec<String> {
    let Read { queue, facts, buries } = read;
    let mut said = Vec::new();
    match &facts.redrive {
        None => {
            said.push(format!(
                "queue {queue} has no redrive policy: a message that always fails is tried until it is too old; give \
                 the queue a dead-letter queue"
            ));
            if *buries {
                said.push(format!(
                    "queue {queue} has nowhere to put what the component refuses: sqs.refused dead-letter does the \
                     same as retry"
                ));
            }
        }
        Some(redrive) => {
            if redrive.max_receives < RECEIVES {
                said.push(format!(
                    "queue {queue} has maxReceiveCount {}: a message that was under way while nodes restart or its \
                     component is replaced may end in {} although it never failed; at least {RECEIVES} is better",
                    redrive.max_receives,
                    redrive.name()
                ));
            }
            if queue.ends_with(".fifo") != redrive.name().ends_with(".fifo") {
                said.push(format!(
                    "queue {queue} and its dead-letter queue {} must both be FIFO or both not: messages that fail \
                     cannot go there",
                    redrive.name()
                ));
            }
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::super::inspect::Redrive;
    use super::*;

    fn check(queue: &str, redrive: Option<(&str, u32)>, buries: bool, words: &[&str]) {
        let redrive = redrive
            .map(|(name, max_receives)| Redrive { target: format!("arn:aws:sqs:us-east-1:1:{name}"), max_receives });
        let facts = Facts { redrive, ..Facts::default() };
        let said = advice(&Read { queue, facts: &facts, buries });
        assert_eq!(said.len(), words.len(), "{said:?}");
        for (said, word) in said.iter().zip(words) {
            assert!(said.contains(word) && said.contains(queue), "{said:?} says {word:?}");
        }
    }

    #[test]
    fn a_queue_that_loses_or_repeats_messages_needlessly_is_told() {
        check("jobs", Some(("dead", 5)), true, &[]);
        check("jobs.fifo", Some(("dead.fifo", 3)), false, &[]);
        check("jobs", None, false, &["no redrive policy"]);
        check("jobs", None, true, &["no redrive policy", "nowhere to put"]);
        check("jobs", Some(("dead", 1)), false, &["maxReceiveCount 1"]);
        check("jobs.fifo", Some(("dead", 2)), false, &["maxReceiveCount 2", "FIFO"]);
    }
}
