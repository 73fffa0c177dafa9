//! How do runs of characters at places become lines and words?
//!
//! In the order in which the page shows them, which is the reading order of nearly every producer, columns included. A run
//! further down or up begins a line, a gap on the line is a space, and a wide one a tab: cells of a table stay apart. Lines
//! of Hebrew and Arabic are shown from left to right, so they are turned round.

/// Characters that are shown in one piece.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Where it begins along its line, and the line's height.
    pub(super) x: f64,
    pub(super) y: f64,
    /// Where it ends.
    pub(super) end: f64,
    /// The size of its font.
    pub(super) size: f64,
    pub(super) text: String,
}

/// A page as it is read.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    line: Vec<Run>,
    length: usize,
}

/// In parts of the font's size: beyond this, runs stand on different lines.
const SAME_LINE: f64 = 0.45;
/// A gap that separates words; the narrowest space of a usual font is 0.22.
const SPACE: f64 = 0.15;
/// One that separates cells.
const TAB: f64 = 1.8;
/// Lines further apart than this are paragraphs.
const PARAGRAPH: f64 = 1.9;

impl Page {
    /// Bytes so far, of what is laid out and of what waits for it.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn push(&mut self, run: Run) {
        if run.text.is_empty() || !(run.x.is_finite() && run.y.is_finite() && run.end.is_finite()) {
            return;
        }
        self.length += run.text.len();
        if let Some(last) = self.line.last() {
            let size = last.size.max(run.size).max(1.0);
            let goes_back = run.end < self.line.first().map_or(run.x, |first| first.x) && !is_rtl(&run.text);
            if (run.y - last.y).abs() > SAME_LINE * size || goes_back {
                self.end_line(Some((last.y - run.y).abs() > PARAGRAPH * size));
            }
        }
        self.line.push(run);
    }

    pub(super) fn into_text(mut self) -> String {
        self.end_line(None);
        let kept = self.text.trim_end().len();
        self.text.truncate(kept);
        self.text
    }

    fn end_line(&mut self, paragraph: Option<bool>) {
        let runs = std::mem::take(&mut self.line);
        let letters = runs.iter().flat_map(|run| run.text.chars());
        let (rtl, ltr) = letters.fold((0_usize, 0_usize), |(rtl, ltr), c| {
            (rtl + usize::from(is_rtl_char(c)), ltr + usize::from(c.is_alphabetic() && !is_rtl_char(c)))
        });
        let line = if rtl > ltr { turned(runs) } else { joined(&runs) };
        if line.trim().is_empty() {
            return;
        }
        self.text.push_str(line.trim_end());
        self.text.push_str(if paragraph == Some(true) { "\n\n" } else { "\n" });
    }
}

fn joined(runs: &[Run]) -> String {
    let mut line = String::new();
    let mut last: Option<&Run> = None;
    for run in runs {
        if let Some(last) = last {
            let (gap, size) = (run.x - last.end, last.size.max(run.size).max(1.0));
            let has_space = last.text.ends_with(char::is_whitespace) || run.text.starts_with(char::is_whitespace);
            if gap > TAB * size {
                line.push('\t');
            } else if gap.abs() > SPACE * size && !has_space {
                line.push(' ');
            }
        }
        line.push_str(&run.text);
        last = Some(run);
    }
    line
}

/// From what is seen to what is read: the line from its right, with numbers and Latin words as they are.
fn turned(mut runs: Vec<Run>) -> String {
    runs.sort_by(|a, b| a.x.total_cmp(&b.x));
    let seen: Vec<char> = joined(&runs).chars().collect();
    let mut read = String::with_capacity(seen.len() * 2);
    let mut end = seen.len();
    while end > 0 {
        let mut start = end - 1;
        let is_ltr = |index: usize| seen.get(index).is_some_and(|c| c.is_alphanumeric() && !is_rtl_char(*c));
        if is_ltr(start) {
            // A number's own points and commas, and the spaces between Latin words, go with it.
            while start > 0
                && (is_ltr(start - 1)
                    || start > 1 && is_ltr(start - 2) && seen.get(start - 1).is_some_and(|c| " .,:/-'%".contains(*c)))
            {
                start -= 1;
            }
            read.extend(seen.get(start..end).unwrap_or_default());
        } else {
            read.extend(seen.get(start).map(|c| mirrored(*c)));
        }
        end = start;
    }
    read
}

fn mirrored(c: char) -> char {
    match c {
        '(' => ')',
        ')' => '(',
        '[' => ']',
        ']' => '[',
        '{' => '}',
        '}' => '{',
        '<' => '>',
        '>' => '<',
        '«' => '»',
        '»' => '«',
        other => other,
    }
}

fn is_rtl(text: &str) -> bool {
    text.chars().any(is_rtl_char)
}

/// Hebrew, Arabic, Syriac, Thaana, N'Ko, and the forms of letters that fonts are asked for.
fn is_rtl_char(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(x: f64, y: f64, text: &str) -> Run {
        let width: f64 = text.chars().map(|_| 5.0).sum();
        Run { x, y, end: x + width, size: 10.0, text: text.to_owned() }
    }

    fn page(runs: &[Run]) -> String {
        let mut page = Page::default();
        runs.iter().for_each(|run| page.push(run.clone()));
        page.into_text()
    }

    #[test]
    fn gaps_are_spaces_and_kerning_is_not() {
        assert_eq!(page(&[run(0.0, 0.0, "To"), run(10.3, 0.0, "day")]), "Today");
        assert_eq!(page(&[run(0.0, 0.0, "good"), run(22.5, 0.0, "day")]), "good day");
        assert_eq!(page(&[run(0.0, 0.0, "name"), run(90.0, 0.0, "price")]), "name\tprice");
    }

    #[test]
    fn columns_follow_each_other_as_they_are_shown() {
        let left = [run(0.0, 100.0, "one"), run(0.0, 88.0, "two")];
        let right = [run(200.0, 100.0, "three"), run(200.0, 88.0, "four")];
        assert_eq!(page(&[left, right].concat()), "one\ntwo\nthree\nfour");
        assert_eq!(page(&[run(0.0, 100.0, "end."), run(0.0, 70.0, "Next")]), "end.\n\nNext");
    }

    #[test]
    fn a_line_of_hebrew_is_read_from_its_right() {
        let seen: String = "שלום עולם".chars().rev().collect();
        assert_eq!(page(&[run(0.0, 0.0, &seen)]), "שלום עולם");
        let seen: String = "(2026)".to_owned() + " " + &"שנת".chars().rev().collect::<String>();
        assert_eq!(page(&[run(0.0, 0.0, &seen)]), "שנת (2026)");
    }
}
