// SPDX-License-Identifier: Apache-2.0
//! A Dockerfile's instructions that change a configuration: `import --change`, `commit --change`.

use serde_json::{Value, json};

use super::error::ImageError;

/// Applies one instruction to an image's configuration (OCI image-spec, config.md).
///
/// # Errors
/// It is no instruction, or none that changes a configuration.
pub fn apply_change(config: &mut Value, instruction: &str) -> Result<(), ImageError> {
    let text = instruction.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let bad = |reason| ImageError::Change {
        instruction: instruction.to_owned(),
        reason,
    };
    if rest.is_empty() {
        return Err(bad("it has no argument"));
    }
    let config = &mut config["config"];
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config["Cmd"] = command(rest).into(),
        "ENTRYPOINT" => config["Entrypoint"] = command(rest).into(),
        "USER" => config["User"] = rest.into(),
        "WORKDIR" => config["WorkingDir"] = rest.into(),
        "STOPSIGNAL" => config["StopSignal"] = rest.into(),
        "ENV" => {
            for (key, value) in pairs(rest).ok_or_else(|| bad("it is not KEY=VALUE"))? {
                set_env(&mut config["Env"], &key, &value);
            }
        }
        "LABEL" => {
            for (key, value) in pairs(rest).ok_or_else(|| bad("it is not KEY=VALUE"))? {
                config["Labels"][key] = value.into();
            }
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let port = match port.contains('/') {
                    true => port.to_owned(),
                    false => format!("{port}/tcp"),
                };
                config["ExposedPorts"][port] = json!({});
            }
        }
        "HEALTHCHECK" => {
            config["Healthcheck"] =
                healthcheck(rest).ok_or_else(|| bad("only CMD or NONE is known"))?;
        }
        "VOLUME" => {
            for volume in json_list(rest).unwrap_or_else(|| words(rest)) {
                config["Volumes"][volume] = json!({});
            }
        }
        _ => return Err(bad("it is not one of those that change a configuration")),
    }
    Ok(())
}

/// `NONE`, or `CMD` and a command; of the options none.
fn healthcheck(text: &str) -> Option<Value> {
    if text == "NONE" {
        return Some(json!({ "Test": ["NONE"] }));
    }
    let command = text.strip_prefix("CMD")?.trim_start();
    let (kind, words) = match json_list(command) {
        Some(words) => ("CMD", words),
        None => ("CMD-SHELL", vec![command.to_owned()]),
    };
    let test: Vec<String> = std::iter::once(kind.to_owned()).chain(words).collect();
    Some(json!({ "Test": test }))
}

/// `["a", "b"]`, or a line for the shell.
fn command(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.into()])
}

fn json_list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

/// `A=b C="d e"`, or the old `A b c`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let first = text.split_whitespace().next()?;
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(key.into(), value.trim().into())]);
    }
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    while chars.peek().is_some() {
        let mut word = String::new();
        let mut quote = None;
        while let Some(c) = chars.next() {
            match (c, quote) {
                (c, Some(open)) if c == open => quote = None,
                ('"' | '\'', None) => quote = Some(c),
                ('\\', None | Some('"')) => word.extend(chars.next()),
                (c, None) if c.is_whitespace() => break,
                (c, _) => word.push(c),
            }
        }
        if !word.is_empty() {
            let (key, value) = word.split_once('=')?;
            pairs.push((key.to_owned(), value.to_owned()));
        }
    }
    Some(pairs)
}

fn set_env(env: &mut Value, key: &str, value: &str) {
    if !env.is_array() {
        *env = json!([]);
    }
    let Some(list) = env.as_array_mut() else {
        return;
    };
    let begins = format!("{key}=");
    list.retain(|entry| {
        !entry
            .as_str()
            .is_some_and(|entry| entry.starts_with(&begins))
    });
    list.push(format!("{key}={value}").into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_configuration() {
        let mut config = json!({"config": {"Env": ["A=old", "B=b"], "ExposedPorts": null}});
        for change in [
            "CMD [\"sh\", \"-l\"]",
            "entrypoint run me",
            "ENV A=new C=\"d e\" F=g\\ h",
            "ENV OLD way of it",
            "LABEL x.y=z",
            "EXPOSE 80 53/udp",
            "VOLUME [\"/data\"]",
            "USER 1000",
            "WORKDIR /work",
            "STOPSIGNAL SIGINT",
        ] {
            apply_change(&mut config, change).unwrap();
        }
        let expected = json!({
            "Cmd": ["sh", "-l"],
            "Entrypoint": ["/bin/sh", "-c", "run me"],
            "Env": ["B=b", "A=new", "C=d e", "F=g h", "OLD=way of it"],
            "Labels": {"x.y": "z"},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/data": {}},
            "User": "1000",
            "WorkingDir": "/work",
            "StopSignal": "SIGINT",
        });
        assert_eq!(config["config"], expected);
    }

    #[test]
    fn what_is_none_is_named() {
        let mut config = json!({});
        for bad in ["RUN ls", "CMD", "", "ENV A"] {
            let error = apply_change(&mut config, bad).unwrap_err();
            assert!(matches!(error, ImageError::Change { .. }), "{bad}");
        }
    }
}
