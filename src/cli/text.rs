//! Text for terminals.

/// The text without control characters: what comes from registries and images may hold any, and a terminal obeys them.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_a_terminal() {
        assert_eq!(clean("ok ü\x1b[2J\r\n\u{9b}"), "ok ü\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}");
    }
}
