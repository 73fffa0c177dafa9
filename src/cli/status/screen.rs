//! The whole terminal for one table. Taken on coming and given back on every way of leaving: the end, an error, a signal, a
//! panic.

use std::io::{self, Stdout, Write, stdout};

use crossterm::cursor::{Hide, MoveTo, MoveToNextLine, Show};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen,
};
use crossterm::{execute, queue};

use super::{Line, Weight};
use crate::cli::terminal::colours_are_wanted;

/// Lines of its own: what keys do, and what could not be read.
const OWN: usize = 2;

/// A terminal that is taken.
pub(super) struct Screen {
    colours: bool,
}

impl Screen {
    /// Takes it.
    ///
    /// # Errors
    /// What the terminal said.
    pub(super) fn take() -> io::Result<Self> {
        // The message of a panic belongs on the screen that stays.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        terminal::enable_raw_mode()?;
        let screen = Self { colours: colours_are_wanted() };
        // What does not fit is cut off by the terminal, which knows how wide a character is.
        execute!(stdout(), EnterAlternateScreen, Hide, DisableLineWrap, Clear(ClearType::All))?;
        Ok(screen)
    }

    /// Shows the lines, and below them what there is to say of the look itself.
    ///
    /// # Errors
    /// What the terminal said.
    pub(super) fn show(&self, lines: &[Line], note: &str) -> io::Result<()> {
        let (_, rows) = terminal::size()?;
        let mut out = stdout();
        queue!(out, BeginSynchronizedUpdate, MoveTo(0, 0))?;
        for line in fitted(lines, usize::from(rows)) {
            self.line(&mut out, &line)?;
        }
        let last = Line { text: note.to_owned(), weight: Weight::Note };
        queue!(out, Clear(ClearType::FromCursorDown), MoveTo(0, rows.saturating_sub(1)))?;
        self.line(&mut out, &last)?;
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }

    fn line(&self, out: &mut Stdout, line: &Line) -> io::Result<()> {
        let colour = match line.weight {
            Weight::Failed => Some(Color::Red),
            Weight::Open => Some(Color::Green),
            Weight::Note => Some(Color::DarkGrey),
            Weight::Foot => Some(Color::Yellow),
            Weight::Heading | Weight::Done => None,
        };
        if line.weight == Weight::Heading {
            queue!(out, SetAttribute(Attribute::Bold))?;
        }
        if let Some(colour) = colour.filter(|_| self.colours) {
            queue!(out, SetForegroundColor(colour))?;
        }
        queue!(out, Print(&line.text), Clear(ClearType::UntilNewLine))?;
        if self.colours {
            queue!(out, ResetColor)?;
        }
        queue!(out, SetAttribute(Attribute::Reset), MoveToNextLine(1))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Done twice it changes nothing.
fn give_back() {
    // Nobody to tell that the terminal is gone.
    let _ = execute!(stdout(), EnableLineWrap, Show, LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
}

/// What a screen of so many rows shows: batches that are done go first where there is no room, and it is said how many lines
/// are missing.
fn fitted(lines: &[Line], rows: usize) -> Vec<Line> {
    let copy = |line: &Line| Line { text: line.text.clone(), weight: line.weight };
    let room = rows.saturating_sub(OWN);
    if lines.len() <= room {
        return lines.iter().map(copy).collect();
    }
    let room = room.saturating_sub(1);
    let mut shown: Vec<bool> = vec![true; lines.len()];
    // From the bottom up, and of those that weigh least first.
    for least in [Weight::Note, Weight::Done, Weight::Open, Weight::Foot, Weight::Failed, Weight::Heading] {
        for (place, line) in lines.iter().enumerate().rev() {
            let left = shown.iter().filter(|shown| **shown).count();
            if left > room
                && line.weight == least
                && let Some(shown) = shown.get_mut(place)
            {
                *shown = false;
            }
        }
    }
    let hidden = shown.iter().filter(|shown| !**shown).count();
    let kept = lines.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(line, _)| copy(line));
    let more = Line { text: format!("... {hidden} more lines: a taller terminal shows them"), weight: Weight::Note };
    kept.chain([more]).take(rows.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(weights: &[Weight]) -> Vec<Line> {
        weights.iter().enumerate().map(|(n, weight)| Line { text: n.to_string(), weight: *weight }).collect()
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn what_has_room_is_shown_whole_and_in_its_order() {
        let all = lines(&[Weight::Heading, Weight::Done, Weight::Open, Weight::Foot]);
        assert_eq!(texts(&fitted(&all, 6)), ["0", "1", "2", "3"]);
    }

    #[test]
    fn what_is_done_gives_way_first_and_what_failed_last() {
        let all = lines(&[Weight::Heading, Weight::Done, Weight::Failed, Weight::Note, Weight::Open, Weight::Foot]);
        let more = |n: usize| format!("... {n} more lines: a taller terminal shows them");
        assert_eq!(texts(&fitted(&all, 7)), ["0", "2", "4", "5", &more(2)]);
        assert_eq!(texts(&fitted(&all, 5)), ["0", "2", &more(4)]);
        for rows in 0..9 {
            assert!(fitted(&all, rows).len() < rows.max(1), "the last row is for what keys do: {rows}");
        }
    }
}
