//! SELinux label parts: checked for form on every host, meaningless on one without SELinux.

use api::cri::v1;
use model::SelinuxLabel;

use super::{Host, text};
use crate::{error::Error, field::Field};

/// Longest part of a label, bytes; a whole context is at most a page.
const PART_MAX: usize = 1024;

/// Label parts; all empty is none. A host that enforces labels must not be told that they were given.
pub(crate) fn label(
    field: &Field<'_>,
    wire: Option<v1::SeLinuxOption>,
    host: &Host,
) -> Result<Option<SelinuxLabel>, Error> {
    let Some(v1::SeLinuxOption { user, role, r#type, level }) = wire else { return Ok(None) };
    let part = |name, value: String| {
        let value = text::text(&field.at(name), value, PART_MAX)?;
        if value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
            Ok(value)
        } else {
            Err(Error::invalid(&field.at(name), value, "a name of letters, digits and _"))
        }
    };
    let label = SelinuxLabel {
        user: part("user", user)?,
        role: part("role", role)?,
        kind: part("type", r#type)?,
        level: text::text(&field.at("level"), level, PART_MAX)?,
    };
    if !label.level.is_empty() && !is_level(&label.level) {
        return Err(Error::invalid(&field.at("level"), label.level, "a level such as s0 or s0:c1,c2"));
    }
    if label == SelinuxLabel::default() {
        return Ok(None);
    }
    if host.selinux {
        return Err(Error::refused(field, label, "SELinux labels are not built yet and this host enforces them"));
    }
    Ok(Some(label))
}

/// `s0`, `s0:c1,c2`, `s0-s0:c0.c1023`.
fn is_level(text: &str) -> bool {
    let numbered = |text: &str, letter: char| {
        text.strip_prefix(letter)
            .is_some_and(|rest| !rest.is_empty() && rest.len() <= 4 && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let one = |text: &str| match text.split_once(':') {
        Some((s, categories)) => numbered(s, 's') && categories.split([',', '.']).all(|c| numbered(c, 'c')),
        None => numbered(text, 's'),
    };
    match text.split_once('-') {
        Some((low, high)) => one(low) && one(high),
        None => one(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_a_sensitivity_and_maybe_categories() {
        for right in ["s0", "s0:c4,c5", "s0-s0:c0.c1023", "s15:c1.c3,c7"] {
            assert!(is_level(right), "{right}");
        }
        for wrong in ["s0,c4,c5", "s", "c0", "s0:", "s0:c", "s0-", "s0:c1,,c2", "S0", "s0 "] {
            assert!(!is_level(wrong), "{wrong}");
        }
    }

    #[test]
    fn labels_mean_nothing_without_selinux_and_are_refused_with_it() {
        let wire = || Some(v1::SeLinuxOption { level: "s0:c1".into(), ..Default::default() });
        let field = Field::root("selinux_options");
        assert!(label(&field, wire(), &Host::plain()).unwrap().is_some());
        assert!(label(&field, wire(), &Host { selinux: true, ..Host::plain() }).is_err());
        let bad = Some(v1::SeLinuxOption { level: "s0,c4,c5".into(), ..Default::default() });
        assert!(label(&field, bad, &Host::plain()).is_err());
    }
}
