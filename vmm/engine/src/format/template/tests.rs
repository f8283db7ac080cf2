// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Template, TemplateError};

fn data() -> Value {
    json!({
        "Name": "web",
        "Count": 3,
        "Gone": null,
        "State": {"Running": true, "ExitCode": 0},
        "Tags": ["a:1", "b:2"],
        "Config": {"Labels": {"com.x.y": "z", "k": "v"}, "Env": null},
    })
}

fn render(text: &str) -> String {
    Template::parse(text).unwrap().render(&data()).unwrap()
}

fn refused(text: &str) -> TemplateError {
    match Template::parse(text) {
        Err(error) => error,
        Ok(template) => template.render(&data()).unwrap_err(),
    }
}

#[test]
fn fields_and_how_go_writes_them() {
    for (text, expected) in [
        ("", ""),
        ("plain }} text", "plain }} text"),
        ("{{.Name}}", "web"),
        ("{{ .Name }}-{{.Count}}", "web-3"),
        ("{{.State.Running}} {{.State.ExitCode}}", "true 0"),
        ("{{.Tags}}", "[a:1 b:2]"),
        ("{{.Config.Labels}}", "map[com.x.y:z k:v]"),
        (
            "{{.Config.Labels.k}}{{.Config.Labels.nosuch}}",
            "v<no value>",
        ),
        ("{{.Gone}}", "<no value>"),
        ("{{(index .Tags 1)}}", "b:2"),
        ("{{$}}", &render("{{.}}")),
        ("{{$.Name}}", "web"),
        ("{{`raw`}}{{\"a\\tb\"}}{{-1}}{{true}}", "rawa\tb-1true"),
        ("a {{- /* nothing */ -}} b", "ab"),
        ("a {{- .Name -}} \n b", "awebb"),
    ] {
        assert_eq!(render(text), expected, "{text}");
    }
}

#[test]
fn functions() {
    for (text, expected) in [
        ("{{json .State}}", r#"{"ExitCode":0,"Running":true}"#),
        ("{{json \"<&>\"}}", "\"<&>\""),
        ("{{.State | json}}", r#"{"ExitCode":0,"Running":true}"#),
        ("{{join .Tags \", \"}}", "a:1, b:2"),
        ("{{split \"a,b\" \",\"}}", "[a b]"),
        (
            "{{upper .Name}}{{lower \"ÄB\"}}{{title \"a bc\"}}",
            "WEBäbA Bc",
        ),
        ("{{truncate .Name 2}}|{{pad .Name 1 2}}|", "we| web  |"),
        ("{{len .Tags}}{{len .Name}}{{len .Config.Env}}", "230"),
        (
            "{{index .Config.Labels \"com.x.y\"}}{{index .Config.Labels \"n\"}}",
            "z",
        ),
        ("{{println .Name 1}}", "web 1\n"),
        (
            "{{printf \"%-5s|%3d|%q|%%\" .Name .Count .Name}}",
            "web  |  3|\"web\"|%",
        ),
        ("{{slice .Name 1}}{{slice .Name 0 1}}", "ebw"),
        (
            "{{eq .Name \"x\" \"web\"}}{{ne .Count 3}}{{gt .Count 2}}{{le 3 .Count}}",
            "truefalsetruetrue",
        ),
        ("{{and .Name 0}}{{or \"\" .Name}}{{not .Gone}}", "0webtrue"),
        ("{{.Name | printf \"%s-%s\" \"a\" | upper}}", "A-WEB"),
    ] {
        assert_eq!(render(text), expected, "{text}");
    }
}

#[test]
fn blocks_and_variables() {
    for (text, expected) in [
        ("{{if .Name}}y{{else}}n{{end}}", "y"),
        (
            "{{if .Gone}}y{{else if eq .Count 3}}three{{else}}n{{end}}",
            "three",
        ),
        ("{{range .Tags}}<{{.}}>{{end}}", "<a:1><b:2>"),
        (
            "{{range $i, $t := .Tags}}{{if $i}},{{end}}{{$t}}{{end}}",
            "a:1,b:2",
        ),
        (
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
            "com.x.y=z;k=v;",
        ),
        ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
        ("{{with .State}}{{.Running}}{{$.Name}}{{end}}", "trueweb"),
        ("{{with .Gone}}x{{else}}-{{end}}", "-"),
        ("{{$x := .Count}}{{$x}}{{$x = 4}}{{$x}}", "34"),
    ] {
        assert_eq!(render(text), expected, "{text}");
    }
}

#[test]
fn labels_are_asked_for_by_name() {
    let row = json!({"Name": "web", "Label": {"com.x.my-tier": "front"}});
    let text = "{{.Name}}:{{.Label \"com.x.my-tier\"}}:{{.Label \"other\"}}";
    let template = Template::parse(text).unwrap();
    assert_eq!(template.render(&row).unwrap(), "web:front:");
    let headings = json!({"Name": "NAME", "Label": "LABEL"});
    let heading = template.render_headers(&headings).unwrap();
    assert_eq!(heading, "NAME:my tier:other");
    assert_eq!(
        refused("{{.Label 1 2}}").to_string(),
        TemplateError::NotAFunction.to_string()
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (text, words) in [
        ("{{.Name", "unclosed action"),
        ("{{.Nosuch}}", "can't evaluate field Nosuch"),
        (
            "{{.State.Nosuch.X}}",
            "at <.State.Nosuch.X>: can't evaluate field Nosuch",
        ),
        ("{{nosuch .}}", "function \"nosuch\" not defined"),
        ("{{if .Name}}", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{}}", "missing value for command"),
        ("{{.Name .Count}}", "no function has arguments"),
        ("{{$x}}", "undefined variable: $x"),
        ("{{\"a}}", "unterminated quoted string"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{index .Tags 7}}", "out of range"),
        ("{{range .Name}}{{end}}", "range can't iterate over \"web\""),
        ("{{len 3}}", "error calling len"),
        ("{{1x}}", "bad number syntax"),
        ("{{.Name ? 1}}", "unexpected '?'"),
    ] {
        let said = refused(text).to_string();
        assert!(said.contains(words), "{text}: {said}");
    }
    assert_eq!(refused(&"{{if 1}}".repeat(1000)), TemplateError::TooDeep);
    assert_eq!(
        refused(&format!("{{{{{}1}}}}", "(".repeat(9999))),
        TemplateError::TooDeep
    );
}

proptest! {
    #[test]
    fn whatever_is_typed_is_answered(
        text in r#"(\{\{|\}\}|-|[.$|(),:= ]|if |else |end|range |with |len |index |"|`|[a-zA-Z0-9])*"#
    ) {
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render(&data());
            let _ = template.fields();
        }
    }
}
