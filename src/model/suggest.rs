//! Which known name a misspelt one was meant to be.
//!
//! Knows nothing of what the names stand for.

/// The most slips of the finger that still count as the same name. Two: one slip in each half of a compound name;
/// with three, most short names are "near" each other.
const SLIPS: usize = 2;

/// A longer word is not compared: the longest name that exists has 60 bytes, and the work grows with the square.
const LONGEST: usize = 80;

/// How many single-character insertions, deletions, replacements and swaps of neighbours turn `a` into `b`
/// (Damerau-Levenshtein distance; no part is changed twice).
pub fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, &y) in b.iter().enumerate() {
            let replace = above[j] + usize::from(x != y);
            let mut best = replace.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = above;
        above = row;
    }
    above[b.len()]
}

/// The name that `word` was most likely meant to be: at most two slips away, and no more than half of it slipped.
/// Upper and lower case count as the same. Of equally near names the first wins.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let letters = word.chars().count();
    let mut best: Option<(usize, &str)> = None;
    for name in names {
        if name.len() > LONGEST || name.len().abs_diff(word.len()) > SLIPS * 4 {
            continue;
        }
        let slips = distance(&word, &name.to_lowercase());
        let near = slips <= SLIPS && slips * 2 <= letters.max(name.chars().count());
        if near && best.is_none_or(|(least, _)| slips < least) {
            best = Some((slips, name));
        }
    }
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_slip_of_each_kind_counts_one() {
        for (a, b) in [("port", "prt"), ("port", "poort"), ("port", "pirt"), ("port", "prot")] {
            assert_eq!(distance(a, b), 1, "{a} {b}");
        }
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn the_nearest_name_is_proposed_and_a_far_one_is_not() {
        let names = ["health", "env", "memory", "start_timeout"];
        assert_eq!(nearest("helth", names), Some("health"));
        assert_eq!(nearest("Start-Timeout", names), Some("start_timeout"));
        assert_eq!(nearest("mmeroy", names), Some("memory"));
        assert_eq!(nearest("es", names), None);
        assert_eq!(nearest("flavour", names), None);
    }

    proptest! {
        #[test]
        fn the_distance_is_symmetric_and_zero_only_for_equals(a in "\\PC{0,12}", b in "\\PC{0,12}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
        }
    }
}
