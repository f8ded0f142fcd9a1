//! What a program is given: arguments and environment.

use std::collections::HashMap;

use api::cri::v1;
use model::EnvVar;

use super::text;
use crate::{error::Error, field::Field};

/// Longest argument or `name=value`, bytes: the kernel's `MAX_ARG_STRLEN` (32 pages) less the NUL.
const ARGUMENT_MAX: usize = 32 * 4096 - 1;
/// All arguments and variables together, bytes: three quarters of the kernel's `_STK_LIM`, where `execve` gives up
/// whatever the stack limit is.
const ALL_MAX: usize = 6 << 20;

/// The words of a command line.
pub(crate) fn words(field: &Field<'_>, words: Vec<String>) -> Result<Vec<String>, Error> {
    let together: usize = words.iter().map(|word| word.len() + 1).sum();
    fits(field, together)?;
    words.into_iter().enumerate().map(|(i, word)| argument(&field.index(i), word)).collect()
}

/// One word, which errors do not repeat: commands carry passwords, and errors are logged.
fn argument(field: &Field<'_>, word: String) -> Result<String, Error> {
    let bytes = word.len();
    text::text(field, word, ARGUMENT_MAX).map_err(|_| {
        let want = format!("at most {ARGUMENT_MAX} bytes, and no NUL byte among them");
        Error::invalid(field, format_args!("{bytes} bytes"), want)
    })
}

/// Environment variables, in order. A name twice is as the client wants it: the later wins.
pub(crate) fn variables(field: &Field<'_>, envs: Vec<v1::KeyValue>) -> Result<Vec<EnvVar>, Error> {
    let together: usize = envs.iter().map(|env| env.key.len() + env.value.len() + 2).sum();
    fits(field, together)?;
    envs.into_iter().enumerate().map(|(i, env)| variable(&field.index(i), env)).collect()
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

fn fits(field: &Field<'_>, together: usize) -> Result<(), Error> {
    if together <= ALL_MAX {
        return Ok(());
    }
    let want = format!("at most {ALL_MAX} bytes together: the kernel starts no program with more");
    Err(Error::invalid(field, format_args!("{together} bytes"), want))
}

/// Sizes of maps are bounded by the size of a message; their entries one by one here.
pub(crate) fn pairs(
    field: &Field<'_>,
    map: HashMap<String, String>,
    longest: usize,
) -> Result<Vec<(String, String)>, Error> {
    let mut pairs = Vec::with_capacity(map.len());
    for (key, value) in map {
        let value = text::text(&field.key(&key), value, longest)?;
        pairs.push((text::text(field, key, longest)?, value));
    }
    Ok(pairs)
}
