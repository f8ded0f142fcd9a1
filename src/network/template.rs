//! A template of a configuration list, filled in with the ranges that the node's pods have.
//!
//! A part of the syntax of Go's text/template, with the fields that containerd's `conf_template` has:
//!
//! ```text
//! template = { text | "{{" action "}}" }         "{{- " and " -}}" cut the white space of the text beside them
//! action   = value
//!          | "if" value … [ "else" … ] "end"     a number but 0, a text or a list but an empty one, is true
//!          | "range" [ "$name" [ "," "$name" ] ":=" ] list … [ "else" … ] "end"
//! value    = ".PodCIDR" | list | "." | "$name"   a list is to be ranged over, and has no text of its own
//! list     = ".PodCIDRRanges" | ".Routes"        "$" before a field is the same field, also inside a range
//! ```
//!
//! Whatever else Go knows is refused by name and place when the template is read, before anything is filled in.
//! Input is an operator's file: it is bounded, and never panics.

use ipnet::IpNet;

/// Deepest nesting of `if` and `range`. Real templates have two.
const DEPTH_MAX: usize = 16;
/// Longest text that a template may become, bytes: the longest configuration that is read.
const RESULT_MAX: usize = 1024 * 1024;
/// Most actions that are carried out: ranges in ranges multiply.
const ACTIONS_MAX: usize = 100_000;
/// Most characters of a construct that a message repeats.
const SHOWN: usize = 40;

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// Its column there, in characters, from 1.
    pub(crate) column: usize,
    /// What it is.
    pub(crate) why: String,
}

type Result<T> = std::result::Result<T, Flaw>;

/// The template with these ranges in it.
pub(crate) fn render(template: &str, ranges: &[IpNet]) -> Result<String> {
    let mut parser = Parser { pieces: split(template)?.into_iter(), template, open: Vec::new(), depth: 0 };
    let (nodes, end) = parser.block()?;
    if let Some(end) = end {
        return Err(flaw(template, end.at, format!("{{{{{}}}}} ends nothing", end.word.name())));
    }
    let fields = Fields {
        ranges: ranges.iter().map(ToString::to_string).collect(),
        routes: routes(ranges).into_iter().map(str::to_owned).collect(),
    };
    let mut filler = Filler { template, fields, items: Vec::new(), made: String::new(), actions: 0 };
    filler.fill(&nodes)?;
    Ok(filler.made)
}

/// The default route of each family that there is.
fn routes(ranges: &[IpNet]) -> Vec<&'static str> {
    let v4 = ranges.iter().any(|range| matches!(range, IpNet::V4(_)));
    let v6 = ranges.iter().any(|range| matches!(range, IpNet::V6(_)));
    [v4.then_some("0.0.0.0/0"), v6.then_some("::/0")].into_iter().flatten().collect()
}

/// A part of a template: text as it stands, or what is between two pairs of braces.
#[derive(Debug)]
enum Piece<'a> {
    Text(&'a str),
    Action { at: usize, tokens: Vec<&'a str> },
}

/// Cuts the template into its pieces.
fn split(template: &str) -> Result<Vec<Piece<'_>>> {
    let (mut pieces, mut rest, mut trims_next) = (Vec::new(), template, false);
    loop {
        let begin = rest.find("{{");
        let mut text = &rest[..begin.unwrap_or(rest.len())];
        if trims_next {
            text = text.trim_start_matches(is_space);
        }
        let Some(begin) = begin else {
            pieces.push(Piece::Text(text));
            return Ok(pieces);
        };
        let at = template.len() - rest.len() + begin;
        let inside = &rest[begin + 2..];
        let Some(end) = inside.find("}}") else {
            return Err(flaw(template, at, "{{ has no }}".into()));
        };
        let mut action = &inside[..end];
        // As Go has it, the dash is one only beside a space: {{-3}} is a number.
        if let Some(trimmed) = action.strip_prefix('-').filter(|after| after.starts_with(is_space)) {
            (action, text) = (trimmed, text.trim_end_matches(is_space));
        }
        trims_next = false;
        if let Some(trimmed) = action.strip_suffix('-').filter(|before| before.ends_with(is_space)) {
            (action, trims_next) = (trimmed, true);
        }
        pieces.push(Piece::Text(text));
        let tokens = tokens(action).map_err(|why| flaw(template, at, why))?;
        pieces.push(Piece::Action { at, tokens });
        rest = &inside[end + 2..];
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Words with what may stand before them (`.PodCIDR`, `$i`, `$.Routes`, `if`), commas and `:=`.
fn tokens(action: &str) -> std::result::Result<Vec<&str>, String> {
    let (mut tokens, mut rest) = (Vec::new(), action.trim_start_matches(is_space));
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with(":=") {
            2
        } else if first == ',' {
            1
        } else {
            let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
            rest.find(|c| !is_part(c)).unwrap_or(rest.len())
        };
        if length == 0 {
            return Err(format!("{} is not known here", shown(rest)));
        }
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start_matches(is_space);
    }
    Ok(tokens)
}

/// What a template consists of, once it is understood.
#[derive(Debug)]
enum Node<'a> {
    Text(&'a str),
    Write { at: usize, value: Value },
    If { at: usize, value: Value, then: Vec<Node<'a>>, other: Vec<Node<'a>> },
    Range { at: usize, list: List, each: Vec<Node<'a>>, other: Vec<Node<'a>> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    PodCidr,
    List(List),
    /// The number of what the range of this depth is at; 0 is the outermost.
    Index(usize),
    /// What the range of this depth is at.
    Item(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Ranges,
    Routes,
}

/// The names that a range gives.
#[derive(Debug, Default)]
struct Names<'a> {
    index: Option<&'a str>,
    item: Option<&'a str>,
}

struct Parser<'a, P> {
    pieces: P,
    template: &'a str,
    /// The ranges around the place, the outermost first.
    open: Vec<Names<'a>>,
    depth: usize,
}

/// The action that ended a block.
struct End {
    at: usize,
    word: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Else,
    End,
}

impl Word {
    fn name(self) -> &'static str {
        match self {
            Self::Else => "else",
            Self::End => "end",
        }
    }
}

impl<'a, P: Iterator<Item = Piece<'a>>> Parser<'a, P> {
    /// Nodes up to an `else` or `end`, or the end of the template.
    fn block(&mut self) -> Result<(Vec<Node<'a>>, Option<End>)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (at, tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { at, tokens } => (at, tokens),
            };
            nodes.push(match tokens[..] {
                [] => return Err(self.flaw(at, "{{}} has nothing in it".into())),
                ["end"] => return Ok((nodes, Some(End { at, word: Word::End }))),
                ["else"] => return Ok((nodes, Some(End { at, word: Word::Else }))),
                ["if", value] => self.condition(at, value)?,
                ["range", ref what @ ..] => self.range(at, what)?,
                [value] => match self.value(at, value)? {
                    Value::List(_) => return Err(self.flaw(at, format!("{} is a list: range over it", shown(value)))),
                    value => Node::Write { at, value },
                },
                ref more => return Err(self.flaw(at, format!("{} is not known here", shown(&more.join(" "))))),
            });
        }
        Ok((nodes, None))
    }

    fn condition(&mut self, at: usize, value: &'a str) -> Result<Node<'a>> {
        let value = self.value(at, value)?;
        let (then, has_other) = self.branch(at, "if", true)?;
        let other = if has_other { self.branch(at, "if", false)?.0 } else { Vec::new() };
        Ok(Node::If { at, value, then, other })
    }

    fn range(&mut self, at: usize, what: &[&'a str]) -> Result<Node<'a>> {
        let (names, list) = match *what {
            [list] => (Names::default(), list),
            [item, ":=", list] => (Names { index: None, item: Some(self.name(at, item)?) }, list),
            [index, ",", item, ":=", list] => {
                let (index, item) = (Some(self.name(at, index)?), Some(self.name(at, item)?));
                (Names { index, item }, list)
            }
            _ => return Err(self.flaw(at, format!("range {} is not known here", shown(&what.join(" "))))),
        };
        let Value::List(list) = self.value(at, list)? else {
            return Err(self.flaw(at, format!("{} is not a list", shown(list))));
        };
        self.open.push(names);
        let each = self.branch(at, "range", true);
        // What `else` says has nothing to name.
        self.open.pop();
        let (each, has_other) = each?;
        let other = if has_other { self.branch(at, "range", false)?.0 } else { Vec::new() };
        Ok(Node::Range { at, list, each, other })
    }

    /// A block inside another. Whether an `else` ended it.
    fn branch(&mut self, at: usize, of: &str, may_have_other: bool) -> Result<(Vec<Node<'a>>, bool)> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.flaw(at, format!("is nested deeper than {DEPTH_MAX}")));
        }
        let (nodes, end) = self.block()?;
        self.depth -= 1;
        match end {
            Some(End { word: Word::End, .. }) => Ok((nodes, false)),
            Some(End { word: Word::Else, .. }) if may_have_other => Ok((nodes, true)),
            Some(End { at, word }) => Err(self.flaw(at, format!("{of} has a second {}", word.name()))),
            None => Err(self.flaw(at, format!("{of} has no end"))),
        }
    }

    fn name(&self, at: usize, token: &'a str) -> Result<&'a str> {
        let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        match token.strip_prefix('$') {
            Some(name) if is_name(name) => Ok(token),
            _ => Err(self.flaw(at, format!("{} is not a variable's name: want $name", shown(token)))),
        }
    }

    fn value(&self, at: usize, token: &str) -> Result<Value> {
        let inner = self.open.len();
        if token == "." && inner > 0 {
            return Ok(Value::Item(inner - 1));
        }
        let found = self.open.iter().enumerate().rev().find_map(|(depth, names)| match token {
            // The item goes first: of two variables with one name Go takes the one that was set last.
            _ if names.item == Some(token) => Some(Value::Item(depth)),
            _ if names.index == Some(token) => Some(Value::Index(depth)),
            _ => None,
        });
        if let Some(found) = found {
            return Ok(found);
        }
        let field = match token.strip_prefix('$') {
            Some(field) if field.starts_with('.') => field,
            None if token.starts_with('.') && inner == 0 => token,
            None if token.starts_with('.') => {
                let why = format!("{} is no field of what is ranged over: put $ before it", shown(token));
                return Err(self.flaw(at, why));
            }
            Some(_) => return Err(self.flaw(at, format!("{} is not set here", shown(token)))),
            None => return Err(self.flaw(at, format!("{} is not known here", shown(token)))),
        };
        match field {
            ".PodCIDR" => Ok(Value::PodCidr),
            ".PodCIDRRanges" => Ok(Value::List(List::Ranges)),
            ".Routes" => Ok(Value::List(List::Routes)),
            other => {
                let why = format!("{} is not known: .PodCIDR, .PodCIDRRanges and .Routes are", shown(other));
                Err(self.flaw(at, why))
            }
        }
    }

    fn flaw(&self, at: usize, why: String) -> Flaw {
        flaw(self.template, at, why)
    }
}

struct Fields {
    ranges: Vec<String>,
    routes: Vec<String>,
}

impl Fields {
    fn list(&self, list: List) -> &[String] {
        match list {
            List::Ranges => &self.ranges,
            List::Routes => &self.routes,
        }
    }
}

struct Filler<'a> {
    template: &'a str,
    fields: Fields,
    /// Where each range around the place is, the outermost first.
    items: Vec<(List, usize)>,
    made: String,
    actions: usize,
}

impl Filler<'_> {
    fn fill(&mut self, nodes: &[Node<'_>]) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => self.made += text,
                Node::Write { at, value } => {
                    self.count(*at)?;
                    self.made += &self.text(*value);
                }
                Node::If { at, value, then, other } => {
                    self.count(*at)?;
                    self.fill(if self.is_true(*value) { then } else { other })?;
                }
                Node::Range { at, list, each, other } => {
                    let length = self.fields.list(*list).len();
                    for index in 0..length {
                        self.count(*at)?;
                        self.items.push((*list, index));
                        let filled = self.fill(each);
                        self.items.pop();
                        filled?;
                    }
                    if length == 0 {
                        self.fill(other)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, at: usize) -> Result<()> {
        self.actions += 1;
        if self.actions > ACTIONS_MAX || self.made.len() > RESULT_MAX {
            return Err(flaw(self.template, at, "what it becomes is too long".into()));
        }
        Ok(())
    }

    fn text(&self, value: Value) -> String {
        match value {
            // As Go has it: the first, and nothing where there is none.
            Value::PodCidr => self.fields.ranges.first().cloned().unwrap_or_default(),
            Value::List(_) => String::new(),
            Value::Index(depth) => self.items.get(depth).map(|(_, index)| index.to_string()).unwrap_or_default(),
            Value::Item(depth) => {
                let item = self.items.get(depth).and_then(|(list, index)| self.fields.list(*list).get(*index));
                item.cloned().unwrap_or_default()
            }
        }
    }

    fn is_true(&self, value: Value) -> bool {
        match value {
            Value::List(list) => !self.fields.list(list).is_empty(),
            Value::Index(depth) => self.items.get(depth).is_some_and(|(_, index)| *index != 0),
            Value::PodCidr | Value::Item(_) => !self.text(value).is_empty(),
        }
    }
}

fn flaw(template: &str, at: usize, why: String) -> Flaw {
    let before = &template[..at];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    Flaw { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, why }
}

/// A construct as a message repeats it.
fn shown(text: &str) -> String {
    let beginning: String = text.chars().take(SHOWN).collect();
    format!("{beginning:?}")
}

#[cfg(test)]
mod tests;
