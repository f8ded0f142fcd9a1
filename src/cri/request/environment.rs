//! What a program is given: arguments and environment.

use std::collections::BTreeMap;

use api::cri::v1;
use model::{ARGUMENT_MAX, ARGUMENTS_MAX, EnvVar, argument_space};

use super::text;
use crate::{error::Error, field::Field};

/// What a program is given, as it is read: arguments and environment share one space.
#[derive(Debug, Default)]
pub(crate) struct Given {
    taken: usize,
}

impl Given {
    /// The words of a command line.
    pub(crate) fn words(&mut self, field: &Field<'_>, words: Vec<String>) -> Result<Vec<String>, Error> {
        self.take(field, words.iter().map(String::len))?;
        words.into_iter().enumerate().map(|(i, word)| argument(&field.index(i), word)).collect()
    }

    /// Environment variables, in order. A name twice is as the client wants it: the later wins.
    pub(crate) fn variables(&mut self, field: &Field<'_>, envs: Vec<v1::KeyValue>) -> Result<Vec<EnvVar>, Error> {
        self.take(field, envs.iter().map(|env| env.key.len() + 1 + env.value.len()))?;
        envs.into_iter().enumerate().map(|(i, env)| variable(&field.index(i), env)).collect()
    }

    fn take(&mut self, field: &Field<'_>, texts: impl Iterator<Item = usize>) -> Result<(), Error> {
        let bytes: usize = texts.map(argument_space).sum();
        self.taken += bytes;
        if self.taken <= ARGUMENTS_MAX {
            return Ok(());
        }
        let want = format!("at most {ARGUMENTS_MAX} bytes of arguments and environment together, 9 more for each text");
        Err(Error::invalid(field, format_args!("{bytes} of {} bytes", self.taken), want))
    }
}

/// One word, which errors do not repeat: commands carry passwords, and errors are logged.
fn argument(field: &Field<'_>, word: String) -> Result<String, Error> {
    let bytes = word.len();
    text::text(field, word, ARGUMENT_MAX).map_err(|_| {
        let want = format!("at most {ARGUMENT_MAX} bytes, and no NUL byte among them");
        Error::invalid(field, format_args!("{bytes} bytes"), want)
    })
}

fn variable(field: &Field<'_>, env: v1::KeyValue) -> Result<EnvVar, Error> {
    let name = text::text(&field.at("key"), env.key, ARGUMENT_MAX)?;
    if name.is_empty() || name.contains('=') {
        return Err(Error::invalid(&field.at("key"), name, "a name that is not empty and has no `=`"));
    }
    let field = field.at("value");
    let room = ARGUMENT_MAX.saturating_sub(name.len() + 1);
    if env.value.len() > room {
        let want = format!("at most {room} bytes: the kernel takes no longer `name=value`");
        return Err(Error::invalid(&field, format_args!("{} bytes", env.value.len()), want));
    }
    if env.value.contains(&0) {
        // Not repeated: it may well be a secret, and errors are logged.
        return Err(Error::invalid(&field, format_args!("{} bytes", env.value.len()), "no NUL byte"));
    }
    Ok(EnvVar { name, value: env.value })
}

/// Sizes of maps are bounded by the size of a message; their entries one by one here.
pub(crate) fn pairs(
    field: &Field<'_>,
    map: BTreeMap<String, String>,
    longest: usize,
) -> Result<Vec<(String, String)>, Error> {
    let mut pairs = Vec::with_capacity(map.len());
    for (key, value) in map {
        let value = text::text(&field.key(&key), value, longest)?;
        pairs.push((text::text(field, key, longest)?, value));
    }
    Ok(pairs)
}
