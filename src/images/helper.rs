//! Credential helpers: programs beside Docker that keep credentials, asked by its protocol. The launcher runs them.

use std::{env, ffi::OsString, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use link::{Output, Program, Programs};
use model::Exit;
use serde::Deserialize;

use crate::{credentials::Proof, docker_config::Helper};

/// How long one may take: those of clouds ask a server, and some that server's server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const LARGEST: usize = 256 << 10;
/// What one says, and not only it, when it has nothing; it is no failure.
const NOTHING: &str = "credentials not found";
/// The user name by which an identity token is told.
const TOKEN_USER: &str = "<token>";
/// Where programs are found when the environment does not say.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Characters of a failure that are told.
const TOLD: usize = 300;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper; `None` when it has nothing. What fails is told in words without any secret.
pub(crate) async fn ask(programs: &Programs, helper: &Helper) -> Result<Option<Proof>, String> {
    let told = |why: String| format!("credential helper docker-credential-{}: {why}", helper.name);
    let name = format!("docker-credential-{}", helper.name);
    // Looked for on a thread that may wait: a directory of the path may be on another machine.
    let path = tokio::task::spawn_blocking(move || find(&name)).await.unwrap_or_default();
    let path = path.ok_or_else(|| told("it is not in the PATH of the daemon".to_owned()))?;
    let program = Program {
        path,
        arguments: vec!["get".into()],
        environment: link::environment(),
        input: helper.server.clone().into_bytes(),
        patience: PATIENCE,
        most_output: LARGEST,
    };
    let output = programs.run(&program).await.map_err(|error| told(error.to_string()))?;
    read(&output).map_err(told)
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from(USUAL_PATH));
    let is_program =
        |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(is_program)
}

fn read(output: &Output) -> Result<Option<Proof>, String> {
    if output.overdue {
        return Err(format!("no end within {} s: it was killed", PATIENCE.as_secs()));
    }
    if output.how != Exit::Code(0) {
        // By the protocol the reason is on standard output.
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
        if said.iter().any(|text| text.contains(NOTHING)) {
            return Ok(None);
        }
        let said = said.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        let said: String = said.chars().filter(|c| !c.is_control()).take(TOLD).collect();
        return Err(match &output.how {
            Exit::Code(code) => format!("exit code {code}: {said}"),
            other => format!("{other:?}: {said}"),
        });
    }
    // Of the parser's own words none: they may repeat the secret.
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| "it did not answer as one".to_owned())?;
    Ok(match answer {
        Answer { secret, .. } if secret.is_empty() => None,
        Answer { username, secret } if username == TOKEN_USER || username.is_empty() => {
            Some(Proof::IdentityToken(secret))
        }
        Answer { username, secret } => Some(Proof::Password { username, password: secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u8, stdout: &str, stderr: &str) -> Result<Option<Proof>, String> {
        read(&Output { how: Exit::Code(code), overdue: false, stdout: stdout.into(), stderr: stderr.into() })
    }

    #[test]
    fn an_answer_is_a_password_a_token_or_nothing() {
        let password = Proof::Password { username: "u".into(), password: "p".into() };
        assert_eq!(answered(0, r#"{"ServerURL":"r.io","Username":"u","Secret":"p"}"#, ""), Ok(Some(password)));
        let token = Ok(Some(Proof::IdentityToken("t".into())));
        assert_eq!(answered(0, r#"{"Username":"<token>","Secret":"t"}"#, ""), token);
        assert_eq!(answered(0, r#"{"Username":"u","Secret":""}"#, ""), Ok(None));
        assert_eq!(answered(1, "credentials not found in native keychain\n", ""), Ok(None));
    }

    #[test]
    fn a_failure_is_told_and_a_strange_answer_is_not_repeated() {
        assert_eq!(answered(2, "", "no way\x07\n"), Err("exit code 2: no way".to_owned()));
        let strange = answered(0, r#"{"Username":1,"Secret":"hunter2"}"#, "").unwrap_err();
        assert!(!strange.contains("hunter2"), "{strange}");
        assert!(answered(0, "", "").is_err());
    }
}
