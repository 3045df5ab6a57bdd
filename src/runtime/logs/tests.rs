//! What the log book keeps, bounds and follows.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn the_last_lines_come_back_in_order_after_a_restart() {
    let (dir, component) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    book.append(&component, (0..10).map(|n| line(1, n, "out")));
    drop(book);
    let book = LogBook::open(dir.path()).expect("a log book");
    assert_eq!(texts(&book.tail(&component, 3, None)), ["out 7", "out 8", "out 9"]);
    book.append(&component, [line(1, 10, "out")]);
    assert_eq!(book.last_lines(&instance(1), 2), ["out 9", "out 10"]);
}

#[test]
fn lines_of_one_instance_are_found_among_those_of_others() {
    let (dir, component) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    book.append(&component, (0..5000).map(|n| line(n % 3, n, "a line that makes the file longer than one block")));
    let lines = book.tail(&component, usize::MAX, Some(&instance(2)));
    assert_eq!(lines.len(), 1666);
    assert!(lines.is_sorted_by_key(|line| line.at));
    assert_eq!(book.tail(&component, usize::MAX, None).len(), 5000);
}

#[test]
fn a_torn_last_line_is_dropped_and_the_next_one_is_whole() {
    let (dir, component) = bench();
    let path = dir.path().join("logs/api.log");
    let book = LogBook::open(dir.path()).expect("a log book");
    book.append(&component, [line(1, 1, "whole"), line(1, 2, "torn")]);
    drop(book);
    let bytes = std::fs::read(&path).expect("the file");
    std::fs::write(&path, &bytes[..bytes.len() - 3]).expect("torn");
    let book = LogBook::open(dir.path()).expect("a log book");
    assert_eq!(texts(&book.tail(&component, 9, None)), ["whole 1"]);
    book.append(&component, [line(1, 3, "next")]);
    assert_eq!(texts(&book.tail(&component, 9, None)), ["whole 1", "next 3"]);
}

#[test]
fn a_book_never_grows_beyond_its_two_segments() {
    let (dir, component) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    let text = "x".repeat(LINE_MAX);
    for n in 0..800 {
        book.append(&component, [Line { text: text.clone(), ..line(1, n, "") }]);
    }
    let found = segments::list(&dir.path().join("logs")).expect("a list");
    assert_eq!(found.len(), 1);
    assert!(found[0].bytes <= 2 * segments::SEGMENT_MAX, "{found:?}");
    let lines = book.tail(&component, usize::MAX, None);
    assert!(lines.len() > 250 && lines.last().is_some_and(|line| line.at == Wall(799)), "{}", lines.len());
}

#[test]
fn a_long_line_is_split_on_a_character_and_line_feeds_end_lines() {
    let (dir, component) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    let text = "é".repeat(LINE_MAX);
    book.append(&component, [Line { text: text.clone(), ..line(1, 0, "") }]);
    let lines = book.tail(&component, 9, None);
    assert!(lines.len() == 2 && lines.iter().all(|line| line.text.len() <= LINE_MAX));
    assert_eq!(texts(&lines).concat(), text);
    book.append(&component, [Line { text: "one\r\n\ntwo\n".into(), ..line(1, 0, "") }]);
    assert_eq!(book.last_lines(&instance(1), 3), ["one", "", "two"]);
}

#[test]
fn control_characters_are_kept_and_shown_as_escapes() {
    let (dir, component) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    book.append(&component, [Line { text: "\u{1b}[2Jgone\ttab".into(), ..line(1, 0, "") }]);
    let lines = book.tail(&component, 1, None);
    assert_eq!(lines[0].text, "\u{1b}[2Jgone\ttab");
    assert_eq!(lines[0].to_string(), "\\u{1b}[2Jgone\ttab");
}

#[test]
fn files_are_readable_by_their_owner_alone() {
    let (dir, component) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    book.append(&component, [line(1, 0, "secret")]);
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("logs"), mode("logs/api.log")), (0o700, 0o600));
}

#[tokio::test]
async fn a_follower_gets_what_was_there_and_what_comes_and_sees_a_gap() {
    let (dir, component) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    book.append(&component, [line(1, 0, "before")]);
    let (lines, mut follow) = book.follow(&component, 10, None);
    assert_eq!(texts(&lines), ["before 0"]);
    book.append(&component, [line(1, 1, "after")]);
    assert_eq!(follow.next().await, Some(Followed::Line(Arc::new(line(1, 1, "after")))));
    book.append(&component, (0..FOLLOW_LAG as u64 + 5).map(|n| line(1, n, "flood")));
    assert_eq!(follow.next().await, Some(Followed::Gap(5)));
    assert_eq!(follow.next().await, Some(Followed::Line(Arc::new(line(1, 5, "flood")))));
}

#[tokio::test]
async fn a_follower_of_one_instance_hears_of_no_other() {
    let (dir, component) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    let (_, mut follow) = book.follow(&component, 0, Some(&instance(2)));
    book.append(&component, [line(1, 0, "theirs"), line(2, 1, "ours")]);
    assert_eq!(follow.next().await, Some(Followed::Line(Arc::new(line(2, 1, "ours")))));
}

#[test]
fn more_books_than_may_be_open_keep_their_lines() {
    let (dir, _) = bench();
    let book = LogBook::open(dir.path()).expect("a log book");
    let names: Vec<ComponentName> = (0..OPEN_MAX + 10).map(|n| format!("c{n}").parse().expect("a name")).collect();
    for _ in 0..2 {
        for name in &names {
            let instance = InstanceId::new(name, 1);
            book.append(name, [Line { instance, ..line(1, 0, "hello") }]);
        }
    }
    assert!(lock(&book.books).books.len() <= OPEN_MAX + 1);
    assert!(names.iter().all(|name| book.tail(name, 9, None).len() == 2));
}

#[test]
fn the_log_of_a_removed_component_goes_after_a_week_and_that_of_a_known_one_stays() {
    let (dir, component) = bench();
    let other: ComponentName = "old".parse().expect("a name");
    let book = LogBook::open(dir.path()).expect("a log book");
    book.append(&component, [line(1, 0, "kept")]);
    book.append(&other, [Line { instance: InstanceId::new(&other, 1), ..line(1, 0, "removed") }]);
    let known = BTreeSet::from([component.clone()]);
    let written = segments::list(&dir.path().join("logs")).expect("a list")[0].written;
    book.sweep(written, &known).expect("a sweep");
    assert_eq!(book.tail(&other, 9, None).len(), 1);
    let later = Wall(written.0 + u64::try_from(REMOVED_AGE.as_millis()).expect("small") + 60_000);
    book.sweep(later, &known).expect("a sweep");
    assert_eq!((book.tail(&other, 9, None).len(), book.tail(&component, 9, None).len()), (0, 1));
}

fn bench() -> (tempfile::TempDir, ComponentName) {
    (tempfile::tempdir().expect("a directory"), "api".parse().expect("a name"))
}

fn instance(number: u64) -> InstanceId {
    InstanceId::new(&"api".parse().expect("a name"), number)
}

fn line(who: u64, n: u64, text: &str) -> Line {
    Line { at: Wall(n), instance: instance(who), stream: Stream::Stdout, text: format!("{text} {n}") }
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}
