//! Numbers, durations, times and strings, as PromQL writes them.

use super::{Parsed, Parser};

impl Parser {
    /// The time after `@`.
    pub(super) fn moment(&mut self) -> Parsed<String> {
        let sign = if self.take('-') { "-" } else { "" };
        if self.look().is_some_and(|first| first.is_ascii_digit() || first == '.') {
            let number = self.number()?;
            if number
                .chars()
                .all(|character| character.is_ascii_digit() || character == '.')
            {
                return Ok(format!("{sign}{number}"));
            }
        }
        self.fault("a time in Unix seconds is expected after `@`; start() and end() say nothing in a query that is asked at one time")
    }

    /// `1h30m`, or seconds.
    pub(super) fn duration(&mut self) -> Parsed<String> {
        let at = self.look().map_or(self.at, |_| self.at);
        if self.ahead(0).is_some_and(|first| first.is_ascii_digit()) {
            let number = self.number()?;
            if !number.contains(['x', 'X', 'e', 'E']) {
                return Ok(number);
            }
        }
        self.back(at, "a duration is expected here, such as 5m")
    }

    /// A number or a duration, as it is written.
    pub(super) fn number(&mut self) -> Parsed<String> {
        let from = self.at;
        let digits = |parser: &mut Self, fits: fn(char) -> bool| {
            let from = parser.at;
            while parser.ahead(0).is_some_and(fits) {
                parser.at += 1;
            }
            parser.at > from
        };
        let decimal: fn(char) -> bool = |character| character.is_ascii_digit();
        let is_read = if self.ahead(0) == Some('0') && matches!(self.ahead(1), Some('x' | 'X')) {
            self.at += 2;
            digits(self, |character| character.is_ascii_hexdigit())
        } else {
            let mut some = digits(self, decimal);
            let mut parts = 0;
            while some && self.unit() {
                parts += 1;
                if !digits(self, decimal) {
                    break;
                }
                // A further part has a unit of its own.
                some = matches!(self.ahead(0), Some('m' | 's' | 'h' | 'd' | 'w' | 'y'));
            }
            if parts == 0 {
                if self.ahead(0) == Some('.') {
                    self.at += 1;
                    some |= digits(self, decimal);
                }
                if some && matches!(self.ahead(0), Some('e' | 'E')) {
                    self.at += 1 + usize::from(matches!(self.ahead(1), Some('+' | '-')));
                    some = digits(self, decimal);
                }
            }
            some
        };
        let goes_on = |next: char| next.is_ascii_alphanumeric() || next == '_' || next == '.';
        if !is_read || self.ahead(0).is_some_and(goes_on) {
            return self.back(from, "neither a number nor a duration");
        }
        Ok(self.text.iter().take(self.at).skip(from).collect())
    }

    /// Takes the unit of a duration.
    pub(super) fn unit(&mut self) -> bool {
        let length = match (self.ahead(0), self.ahead(1)) {
            (Some('m'), Some('s')) => 2,
            (Some('s' | 'm' | 'h' | 'd' | 'w' | 'y'), _) => 1,
            _ => 0,
        };
        self.at += length;
        length > 0
    }

    /// A string in quotes, as Go reads it.
    pub(super) fn string(&mut self) -> Parsed<String> {
        let from = self.at;
        let quote = self.ahead(0);
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(character) = self.ahead(0).filter(|next| *next != '\n' || quote == Some('`')) else {
                return self.back(from, "this string has no end");
            };
            if Some(character) == quote {
                self.at += 1;
                return Ok(text);
            }
            if character == '\\' && quote != Some('`') {
                text.push(self.escaped(quote)?);
            } else {
                text.push(character);
                self.at += 1;
            }
        }
    }

    pub(super) fn escaped(&mut self, quote: Option<char>) -> Parsed<char> {
        let from = self.at;
        let code = |parser: &Self, skip: usize, digits: usize, radix: u32| {
            let number = (0..digits).try_fold(0_u32, |number, at| {
                let digit = parser.ahead(skip + at)?.to_digit(radix)?;
                number.checked_mul(radix)?.checked_add(digit)
            })?;
            // A byte beyond ASCII is no character.
            let is_byte = digits < 4;
            let read = char::from_u32(number).filter(|read| !is_byte || read.is_ascii())?;
            Some((read, skip + digits))
        };
        let read = match self.ahead(1) {
            Some('a') => Some(('\x07', 2)),
            Some('b') => Some(('\x08', 2)),
            Some('f') => Some(('\x0c', 2)),
            Some('n') => Some(('\n', 2)),
            Some('r') => Some(('\r', 2)),
            Some('t') => Some(('\t', 2)),
            Some('v') => Some(('\x0b', 2)),
            Some('\\') => Some(('\\', 2)),
            Some(same) if Some(same) == quote => Some((same, 2)),
            Some('x') => code(self, 2, 2, 16),
            Some('u') => code(self, 2, 4, 16),
            Some('U') => code(self, 2, 8, 16),
            Some('0'..='7') => code(self, 1, 3, 8),
            _ => None,
        };
        match read {
            Some((read, length)) => {
                self.at += length;
                Ok(read)
            }
            None => self.back(from, "no escape of a string in PromQL"),
        }
    }
}
