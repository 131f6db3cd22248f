//! An expression as text that can be read in one way only: each operand that is not simple stands in parentheses.

use std::fmt::{self, Display, Formatter, Write as _};

use super::parser::is_label;
use super::{Expr, Matcher, Matching, Selector, Time};

impl Display for Expr {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(text) => to.write_str(text),
            Self::Text(text) => quoted(text, to),
            Self::Selector(selector) => selector.fmt(to),
            Self::Subquery { of, range, step, time } => {
                match of.as_ref() {
                    Self::Call { .. } | Self::Aggregate { .. } => write!(to, "{of}")?,
                    _ => write!(to, "({of})")?,
                }
                write!(to, "[{range}:{}]{time}", step.as_deref().unwrap_or_default())
            }
            Self::Call { name, arguments } => {
                to.write_str(name)?;
                list(arguments, to)
            }
            Self::Aggregate {
                op,
                grouping,
                arguments,
            } => {
                to.write_str(op)?;
                if let Some((word, names)) = grouping {
                    write!(to, " {word} ")?;
                    labels(names, to)?;
                    to.write_char(' ')?;
                }
                list(arguments, to)
            }
            Self::Unary { sign, of } => {
                to.write_char(*sign)?;
                operand(of, to)
            }
            Self::Binary {
                op,
                matching,
                left,
                right,
            } => {
                operand(left, to)?;
                write!(to, " {op}{matching} ")?;
                operand(right, to)
            }
        }
    }
}

impl Display for Selector {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        to.write_str(self.name.as_deref().unwrap_or_default())?;
        if self.name.is_none() || !self.matchers.is_empty() {
            to.write_char('{')?;
            for (at, matcher) in self.matchers.iter().enumerate() {
                write!(to, "{}{matcher}", if at == 0 { "" } else { "," })?;
            }
            to.write_char('}')?;
        }
        if let Some(range) = &self.range {
            write!(to, "[{range}]")?;
        }
        self.time.fmt(to)
    }
}

impl Display for Matcher {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        label(&self.label, to)?;
        to.write_str(self.op)?;
        quoted(&self.value, to)
    }
}

impl Display for Time {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(to, " @ {at}")?;
        }
        if let Some(offset) = &self.offset {
            write!(to, " offset {offset}")?;
        }
        Ok(())
    }
}

impl Display for Matching {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        if self.bool {
            to.write_str(" bool")?;
        }
        for (word, names) in [&self.labels, &self.group].into_iter().flatten() {
            write!(to, " {word} ")?;
            labels(names, to)?;
        }
        Ok(())
    }
}

fn operand(expression: &Expr, to: &mut Formatter<'_>) -> fmt::Result {
    match expression {
        Expr::Unary { .. } | Expr::Binary { .. } => write!(to, "({expression})"),
        _ => write!(to, "{expression}"),
    }
}

fn list(arguments: &[Expr], to: &mut Formatter<'_>) -> fmt::Result {
    to.write_char('(')?;
    for (at, argument) in arguments.iter().enumerate() {
        write!(to, "{}{argument}", if at == 0 { "" } else { ", " })?;
    }
    to.write_char(')')
}

fn labels(names: &[String], to: &mut Formatter<'_>) -> fmt::Result {
    to.write_char('(')?;
    for (at, name) in names.iter().enumerate() {
        to.write_str(if at == 0 { "" } else { ", " })?;
        label(name, to)?;
    }
    to.write_char(')')
}

fn label(name: &str, to: &mut Formatter<'_>) -> fmt::Result {
    if is_label(name) {
        to.write_str(name)
    } else {
        quoted(name, to)
    }
}

/// A double-quoted string, as Go reads it.
fn quoted(text: &str, to: &mut Formatter<'_>) -> fmt::Result {
    to.write_char('"')?;
    for character in text.chars() {
        match character {
            '\\' => to.write_str("\\\\")?,
            '"' => to.write_str("\\\"")?,
            '\n' => to.write_str("\\n")?,
            '\r' => to.write_str("\\r")?,
            '\t' => to.write_str("\\t")?,
            control if control.is_control() => write!(to, "\\u{:04x}", u32::from(control))?,
            other => to.write_char(other)?,
        }
    }
    to.write_char('"')
}
