//! Reads PromQL by the grammar of Prometheus: what it understands it understands as Prometheus does, and it refuses the rest with its place.
//!
//! Not understood, and so refused: `or` between matchers, `@ start()` and `@ end()` (a query is asked at one time), arithmetic in durations,
//! keywords as names of metrics, and strings that are not UTF-8.

mod literal;

use super::{DEEPEST, Expr, Matcher, Matching, PromqlError, Selector, Time};

const AGGREGATIONS: [&str; 14] = [
    "sum",
    "min",
    "max",
    "avg",
    "group",
    "stddev",
    "stdvar",
    "count",
    "count_values",
    "bottomk",
    "topk",
    "quantile",
    "limitk",
    "limit_ratio",
];
const KEYWORDS: [&str; 12] = [
    "and",
    "or",
    "unless",
    "atan2",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
];
/// Operators that are signs, the longer ones first, and how strongly they bind.
const SIGNS: [(&str, u8); 12] = [
    ("==", 3),
    ("!=", 3),
    ("<=", 3),
    (">=", 3),
    ("<", 3),
    (">", 3),
    ("+", 4),
    ("-", 4),
    ("*", 5),
    ("/", 5),
    ("%", 5),
    ("^", POWER),
];
/// Operators that are words.
const WORDS: [(&str, u8); 4] = [("or", 1), ("and", 2), ("unless", 2), ("atan2", 5)];
/// How strongly `^` binds: more than a sign, and from the right.
const POWER: u8 = 6;
const NAME: &str = "__name__";

type Parsed<T> = Result<T, PromqlError>;

/// Reads an expression.
pub fn parse(text: &str) -> Parsed<Expr> {
    let mut parser = Parser {
        text: text.chars().collect(),
        at: 0,
        depth: 0,
    };
    let expression = parser.expression(1)?;
    match parser.look() {
        None => Ok(expression),
        Some(_) => parser.fault("an operator or the end is expected here"),
    }
}

/// Whether it is a label's name that needs no quotes.
pub(super) fn is_label(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|other| other.is_ascii_alphanumeric() || other == '_')
}

struct Parser {
    text: Vec<char>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn fault<T>(&self, why: impl Into<String>) -> Parsed<T> {
        let rest: String = self.text.iter().skip(self.at).take(12).collect();
        Err(PromqlError::Syntax {
            at: self.at + 1,
            before: if rest.is_empty() {
                "the end".to_owned()
            } else {
                format!("before `{}`", rest.escape_debug())
            },
            why: why.into(),
        })
    }

    /// The character so far ahead.
    fn ahead(&self, by: usize) -> Option<char> {
        self.text.get(self.at + by).copied()
    }

    /// The next character that is no blank and in no comment.
    fn look(&mut self) -> Option<char> {
        loop {
            match self.ahead(0)? {
                ' ' | '\t' | '\n' | '\r' => self.at += 1,
                '#' => {
                    while self.ahead(0).is_some_and(|character| character != '\n') {
                        self.at += 1;
                    }
                }
                other => return Some(other),
            }
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.look() == Some(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, wanted: char) -> Parsed<()> {
        if self.take(wanted) {
            Ok(())
        } else {
            self.fault(format!("`{wanted}` is expected here"))
        }
    }

    /// The name that stands next, not taken; `also`: what may stand in it besides letters, digits and underscores.
    fn name(&mut self, also: &str) -> Option<String> {
        self.look().filter(|first| !first.is_ascii_digit())?;
        let fits =
            |character: &&char| character.is_ascii_alphanumeric() || **character == '_' || also.contains(**character);
        let name: String = self.text.iter().skip(self.at).take_while(fits).collect();
        Some(name).filter(|name| !name.is_empty())
    }

    fn keyword(&mut self) -> Option<String> {
        self.name(":").map(|name| name.to_ascii_lowercase())
    }

    /// Takes one of these words, if it stands next.
    fn word(&mut self, words: &[&'static str]) -> Option<&'static str> {
        let next = self.keyword()?;
        let word = words.iter().copied().find(|word| *word == next)?;
        self.at += word.len();
        Some(word)
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEEPEST {
            return self.fault(format!("more than {DEEPEST} levels within each other"));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    /// An expression whose operators bind at least so strongly.
    fn expression(&mut self, least: u8) -> Parsed<Expr> {
        self.deeper(|parser| {
            let mut left = parser.signed()?;
            while let Some((op, binds)) = parser.operator().filter(|(_, binds)| *binds >= least) {
                parser.at += op.len();
                let matching = parser.matching()?;
                let right = parser.expression(if binds == POWER { binds } else { binds + 1 })?;
                left = Expr::Binary {
                    op,
                    matching,
                    left: Box::new(left),
                    right: Box::new(right),
                };
            }
            Ok(left)
        })
    }

    /// The operator that stands next, not taken.
    fn operator(&mut self) -> Option<(&'static str, u8)> {
        self.look()?;
        let is_sign = |(sign, _): &(&str, u8)| {
            sign.chars()
                .eq(self.text.iter().skip(self.at).take(sign.len()).copied())
        };
        if let Some(sign) = SIGNS.into_iter().find(is_sign) {
            return Some(sign);
        }
        let word = self.keyword()?;
        WORDS.into_iter().find(|(known, _)| *known == word)
    }

    fn matching(&mut self) -> Parsed<Matching> {
        let bool = self.word(&["bool"]).is_some();
        let mut matching = Matching {
            bool,
            ..Matching::default()
        };
        if let Some(word) = self.word(&["on", "ignoring"]) {
            matching.labels = Some((word, self.labels()?));
            if let Some(word) = self.word(&["group_left", "group_right"]) {
                let labels = if self.look() == Some('(') {
                    self.labels()?
                } else {
                    Vec::new()
                };
                matching.group = Some((word, labels));
            }
        }
        Ok(matching)
    }

    fn labels(&mut self) -> Parsed<Vec<String>> {
        self.expect('(')?;
        let mut labels = Vec::new();
        while !self.take(')') {
            labels.push(self.label()?);
            if !self.take(',') && self.look() != Some(')') {
                return self.fault("`,` or `)` is expected between labels");
            }
        }
        Ok(labels)
    }

    fn label(&mut self) -> Parsed<String> {
        if let Some('"' | '\'' | '`') = self.look() {
            return self.string();
        }
        match self.name("") {
            Some(name) => {
                self.at += name.len();
                Ok(name)
            }
            None => self.fault("the name of a label is expected here"),
        }
    }

    fn signed(&mut self) -> Parsed<Expr> {
        match self.look() {
            Some(sign @ ('+' | '-')) => {
                self.at += 1;
                let of = Box::new(self.expression(POWER)?);
                Ok(Expr::Unary { sign, of })
            }
            _ => self.postfixed(),
        }
    }

    /// What stands by itself, with what may follow it: ranges, `@` and `offset`.
    fn postfixed(&mut self) -> Parsed<Expr> {
        let grouped = self.look() == Some('(');
        let mut expression = self.simple()?;
        // In parentheses it is an expression as any other.
        let mut bare = !grouped;
        loop {
            if self.look() == Some('[') {
                expression = self.range(expression, bare)?;
            } else if self.look() == Some('@') {
                let at = self.at;
                self.at += 1;
                let time = self.moment()?;
                match bare.then(|| time_of(&mut expression)).flatten() {
                    Some(Time { at: place @ None, .. }) => *place = Some(time),
                    _ => return self.back(at, "`@` belongs once after a selector or a subquery"),
                }
            } else if self.keyword().as_deref() == Some("offset") {
                let at = self.at;
                self.at += "offset".len();
                let sign = if self.take('-') { "-" } else { "" };
                let offset = format!("{sign}{}", self.duration()?);
                match bare.then(|| time_of(&mut expression)).flatten() {
                    Some(Time {
                        offset: place @ None, ..
                    }) => *place = Some(offset),
                    _ => return self.back(at, "`offset` belongs once after a selector or a subquery"),
                }
            } else {
                return Ok(expression);
            }
            bare = true;
        }
    }

    fn back<T>(&mut self, to: usize, why: &str) -> Parsed<T> {
        self.at = to;
        self.fault(why)
    }

    /// `[range]` or `[range:step]` after an expression.
    fn range(&mut self, of: Expr, bare: bool) -> Parsed<Expr> {
        let at = self.at;
        self.expect('[')?;
        let range = self.duration()?;
        if self.take(':') {
            let step = if self.look() == Some(']') {
                None
            } else {
                Some(self.duration()?)
            };
            self.expect(']')?;
            return Ok(Expr::Subquery {
                of: Box::new(of),
                range,
                step,
                time: Time::default(),
            });
        }
        self.expect(']')?;
        match of {
            Expr::Selector(selector) if bare && selector.range.is_none() && selector.time == Time::default() => {
                Ok(Expr::Selector(Selector {
                    range: Some(range),
                    ..selector
                }))
            }
            _ => self.back(
                at,
                "a range belongs after a selector; of anything else it takes a subquery, `[5m:1m]`",
            ),
        }
    }

    fn simple(&mut self) -> Parsed<Expr> {
        match self.look() {
            None => self.fault("an expression is expected here"),
            Some('(') => {
                self.at += 1;
                let inner = self.expression(1)?;
                self.expect(')')?;
                Ok(inner)
            }
            Some('"' | '\'' | '`') => Ok(Expr::Text(self.string()?)),
            Some('{') => self.selector(None),
            Some(first) if first.is_ascii_digit() || first == '.' => Ok(Expr::Number(self.number()?)),
            Some(_) => self.named(),
        }
    }

    /// What begins with a name: a number, an aggregation, a function or a metric.
    fn named(&mut self) -> Parsed<Expr> {
        let Some(name) = self.name(":") else {
            return self.fault("an expression is expected here");
        };
        let lower = name.to_ascii_lowercase();
        if KEYWORDS.contains(&lower.as_str()) {
            return self.fault(format!(
                "`{name}` is a word of PromQL; a metric of that name is {{__name__=\"{name}\"}}"
            ));
        }
        let from = self.at;
        self.at += name.len();
        if AGGREGATIONS.contains(&lower.as_str()) {
            let follows = self.look() == Some('(') || matches!(self.keyword().as_deref(), Some("by" | "without"));
            if follows {
                return self.aggregate(lower);
            }
            return self.back(from, &format!("`{name}` is an aggregation, and `(` has to follow; a metric of that name is {{__name__=\"{name}\"}}"));
        }
        if self.look() == Some('(') {
            if name.contains(':') {
                return self.back(from, "no function has `:` in its name");
            }
            let arguments = self.arguments()?;
            return Ok(Expr::Call { name, arguments });
        }
        if matches!(lower.as_str(), "inf" | "nan") {
            return Ok(Expr::Number(name));
        }
        self.selector(Some(name))
    }

    fn aggregate(&mut self, op: String) -> Parsed<Expr> {
        let before = self.grouping()?;
        let arguments = self.arguments()?;
        let grouping = match before {
            Some(before) => Some(before),
            None => self.grouping()?,
        };
        Ok(Expr::Aggregate {
            op,
            grouping,
            arguments,
        })
    }

    fn grouping(&mut self) -> Parsed<Option<(&'static str, Vec<String>)>> {
        match self.word(&["by", "without"]) {
            Some(word) => Ok(Some((word, self.labels()?))),
            None => Ok(None),
        }
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        self.expect('(')?;
        let mut arguments = Vec::new();
        if self.take(')') {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression(1)?);
            if self.take(')') {
                return Ok(arguments);
            }
            if !self.take(',') {
                return self.fault("an operator, `,` or `)` is expected here");
            }
        }
    }

    fn selector(&mut self, name: Option<String>) -> Parsed<Expr> {
        let mut matchers = Vec::new();
        if self.take('{') {
            while !self.take('}') {
                matchers.push(self.matcher()?);
                if self.take(',') {
                    continue;
                }
                match self.look() {
                    Some('}') => {}
                    _ if self.keyword().as_deref() == Some("or") => {
                        return self.fault("`or` between matchers is not PromQL; write `a{…} or b{…}`");
                    }
                    _ => return self.fault("`,` or `}` is expected between matchers"),
                }
            }
        }
        Ok(Expr::Selector(Selector {
            name,
            matchers,
            range: None,
            time: Time::default(),
        }))
    }

    fn matcher(&mut self) -> Parsed<Matcher> {
        let is_quoted = matches!(self.look(), Some('"' | '\'' | '`'));
        let label = self.label()?;
        if is_quoted && matches!(self.look(), Some(',' | '}')) {
            return Ok(Matcher {
                label: NAME.to_owned(),
                op: "=",
                value: label,
            });
        }
        self.look();
        let op = match (self.ahead(0), self.ahead(1)) {
            (Some('='), Some('~')) => "=~",
            (Some('='), _) => "=",
            (Some('!'), Some('=')) => "!=",
            (Some('!'), Some('~')) => "!~",
            _ => return self.fault("`=`, `!=`, `=~` or `!~` is expected after a label"),
        };
        self.at += op.len();
        match self.look() {
            Some('"' | '\'' | '`') => Ok(Matcher {
                label,
                op,
                value: self.string()?,
            }),
            _ => self.fault("a value in quotes is expected here"),
        }
    }
}

/// Where the time of an expression stands, if it may have one.
fn time_of(expression: &mut Expr) -> Option<&mut Time> {
    match expression {
        Expr::Selector(Selector { time, .. }) | Expr::Subquery { time, .. } => Some(time),
        _ => None,
    }
}
