//! What a registry demands when it answers 401: the `WWW-Authenticate` header (RFC 9110 §11.6.1).

/// A demand that we can meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password.
    Basic,
    /// A token from another server.
    Bearer {
        /// Where the token is made.
        realm: String,
        /// Whom it is for.
        service: Option<String>,
        /// What it must allow.
        scope: Option<String>,
    },
}

/// The demands of one header's value that we can meet, in its order.
pub(crate) fn challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some((scheme, after)) = token(rest.trim_start_matches([' ', '\t', ','])) {
        let (parameters, after) = parameters(after);
        rest = after;
        let value = |name: &str| {
            parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            found.push(Challenge::Bearer { realm, service: value("service"), scope: value("scope") });
        }
    }
    found
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `name=value` pairs up to the next scheme.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        let start = text.trim_start_matches([' ', '\t', ',']);
        let Some((name, after)) = token(start) else { return (found, "") };
        let Some(after) = after.trim_start().strip_prefix('=') else { return (found, start) };
        let (value, after) = value(after.trim_start());
        found.push((name.to_owned(), value));
        text = after;
    }
}

fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_demands_of_known_registries_are_understood() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        };
        for (header, wanted) in [
            (
                r#"Bearer realm="https://a/t",service="r.io",scope="repository:a/b:pull,push""#,
                vec![bearer("https://a/t", Some("r.io"), Some("repository:a/b:pull,push"))],
            ),
            (r#"bearer realm=https://a/t, error="invalid_token""#, vec![bearer("https://a/t", None, None)]),
            (r#"Basic realm="x, y""#, vec![Challenge::Basic]),
            (r#"Negotiate, Basic realm="x", Bearer realm="y\"z""#, vec![Challenge::Basic, bearer("y\"z", None, None)]),
            ("Basic", vec![Challenge::Basic]),
            ("Bearer", vec![]),
            ("", vec![]),
            (r#"Bearer realm="unterminated"#, vec![bearer("unterminated", None, None)]),
        ] {
            assert_eq!(challenges(header), wanted, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_or_hangs(header in "[ -~]{0,60}|(Basic|Bearer|realm|=|\"|,| |\\\\){0,20}") {
            let _ = challenges(&header);
        }
    }
}
