// SPDX-License-Identifier: Apache-2.0

use super::*;

fn parse(line: &[&str]) -> Result<Cli, UsageError> {
    let args: Vec<OsString> = std::iter::once("walnut")
        .chain(line.iter().copied())
        .map(OsString::from)
        .collect();
    Cli::from_args(&args)
}

fn run(line: &[&str]) -> run::ContainerArgs {
    run_args(line).container
}

fn run_args(line: &[&str]) -> run::RunArgs {
    let full: Vec<&str> = std::iter::once("run").chain(line.iter().copied()).collect();
    match parse(&full).unwrap().command {
        Command::Run(args) => *args,
        _ => panic!("not run"),
    }
}

fn words(line: &[&str]) -> (String, u8) {
    let error = parse(line).unwrap_err();
    (error.to_string(), error.exit_code())
}

#[test]
fn clap_accepts_the_definition() {
    Cli::command().debug_assert();
}

/// What a deferred definition says of itself would come after, and so instead of, what the verb's
/// own line says: no `///` on top of a type with flags.
#[test]
fn a_verb_is_about_the_same_before_and_after_it_is_defined() {
    fn compare(before: &clap::Command, built: &clap::Command) {
        for verb in before.get_subcommands() {
            let after = built.find_subcommand(verb.get_name()).unwrap();
            let about = |verb: &clap::Command| verb.get_about().map(ToString::to_string);
            assert_eq!(about(verb), about(after), "{}", verb.get_name());
            compare(verb, after);
        }
    }
    let mut built = Cli::command();
    built.build();
    compare(&Cli::command(), &built);
}

#[test]
fn flags_after_the_image_belong_to_the_command() {
    let args = run(&[
        "--rm",
        "-it",
        "busybox",
        "ls",
        "-l",
        "--rm=false",
        "--",
        "-e",
        "x",
    ]);
    assert!(args.rm && args.interactive && args.tty);
    assert_eq!(
        args.args,
        ["busybox", "ls", "-l", "--rm=false", "--", "-e", "x"]
    );
    assert!(args.env.is_empty());
}

#[test]
fn flags_as_docker_users_type_them() {
    let args = run(&[
        "-ti",
        "-eA=b",
        "-e",
        "C",
        "--env=D=e",
        "-w/work",
        "-u",
        "1000:1000",
        "-m",
        "1.5g",
        "--cpus=1.5",
        "-v",
        "/a:/b:ro",
        "-v=/c:/d",
        "--rm=true",
        "--tty=false",
        "--name",
        "a",
        "--name",
        "b",
        "--pids-limit",
        "-1",
        "--timings",
        "image",
    ]);
    assert!(args.interactive && !args.tty && args.rm);
    assert_eq!(args.env, ["A=b", "C", "D=e"]);
    assert_eq!(args.workdir.as_deref(), Some("/work"));
    assert_eq!(args.memory, Some(3 << 29));
    assert_eq!(args.cpus.unwrap().milli(), 1500);
    assert_eq!(args.volume, ["/a:/b:ro", "/c:/d"]);
    assert_eq!(args.name.as_deref(), Some("b"));
    assert_eq!(args.pids_limit, Some(-1));
    assert_eq!(run(&["-m", "0", "i"]).memory, Some(0));
    assert_eq!(args.args, ["image"]);
    assert_eq!(
        run_args(&["--timings", "i"]).timings,
        Some(run::TimingsFormat::Table)
    );
    let both = run_args(&["-d", "--timings=json", "i"]);
    assert_eq!(both.timings, Some(run::TimingsFormat::Json));
    assert!(both.detach && both.sig_proxy);
}

/// Of every verb, though only few of them are defined for it.
#[test]
fn a_switch_takes_a_word() {
    let force = |line: &[&str]| match parse(line).unwrap().command {
        Command::Rm(args) => args.force,
        _ => panic!("not rm"),
    };
    assert!(force(&["rm", "-f", "web"]) && force(&["rm", "--force=true", "web"]));
    assert!(force(&["rm", "-vf=1", "web"]));
    assert!(!force(&["rm", "-f=false", "web"]) && !force(&["rm", "-v=T", "web"]));
    let Command::Container(below) = parse(&["container", "ls", "-a=true"]).unwrap().command else {
        panic!("not container")
    };
    assert!(matches!(*below, ContainerCommand::Ls(args) if args.all));
    let other = "invalid argument \"maybe\" for \"--force\" flag: it is true or false; see 'walnut \
                 rm --help'";
    let said = words(&["rm", "--force=maybe", "web"]);
    assert_eq!(said, (other.to_owned(), 125));
    // Not the verb's.
    let args = run(&["busybox", "ls", "--color=true"]);
    assert_eq!(args.args, ["busybox", "ls", "--color=true"]);
    assert!(!run(&["-i=false", "busybox"]).interactive);
}

#[test]
fn a_rootfs_needs_no_image() {
    let args = run(&["--rootfs", "./r", "--", "./script.sh", "--flag"]);
    assert_eq!(args.rootfs.as_deref(), Some(std::path::Path::new("./r")));
    assert_eq!(args.args, ["./script.sh", "--flag"]);
}

#[test]
fn global_flags_stand_before_the_verb() {
    let cli = parse(&["--root", "/r", "-vv", "--state=/s", "doctor"]).unwrap();
    assert_eq!(cli.root.as_deref(), Some(std::path::Path::new("/r")));
    assert_eq!(cli.verbose, 2);
    assert!(matches!(cli.command, Command::Doctor));
}

#[test]
fn mistakes_in_dockers_words() {
    for (line, said) in [
        (
            &["run", "--frob", "i"][..],
            "unknown flag: --frob; see 'walnut run --help'",
        ),
        (
            &["run", "--frob=1", "i"],
            "unknown flag: --frob; see 'walnut run --help'",
        ),
        (
            &["run", "-x", "i"],
            "unknown shorthand flag: 'x' in -x; see 'walnut run --help'",
        ),
        (
            &["run", "-m", "foo", "i"],
            "invalid argument \"foo\" for \"-m, --memory\" flag: invalid size: 'foo'; \
             see 'walnut run --help'",
        ),
        (
            &["run", "-m", "1m", "i"],
            "invalid argument \"1m\" for \"-m, --memory\" flag: minimum memory limit allowed is \
             6MB; see 'walnut run --help'",
        ),
        (
            &["run", "--cpus", "two", "i"],
            "invalid argument \"two\" for \"--cpus\" flag: failed to parse 'two' as a number of \
             CPUs; see 'walnut run --help'",
        ),
        (
            &["run", "--name"],
            "flag needs an argument: --name; see 'walnut run --help'",
        ),
        (
            &["run", "-e"],
            "flag needs an argument: -e, --env; see 'walnut run --help'",
        ),
    ] {
        assert_eq!(words(line), (said.to_owned(), 125), "{line:?}");
    }
    let unknown = "'frob' is not a walnut command; see 'walnut --help'";
    assert_eq!(words(&["frob"]), (unknown.to_owned(), 1));
    let (build, code) = words(&["build", "."]);
    assert!(build.contains("podman or buildah") && code == 1, "{build}");
    for (line, said) in [
        (&["run"][..], "\"walnut run\" requires at least 1 argument"),
        (&["rm"], "\"walnut rm\" requires at least 1 argument"),
        (&["ps", "x"], "\"walnut ps\" accepts no arguments"),
        (
            &["rename", "a"],
            "\"walnut rename\" requires exactly 2 arguments",
        ),
        (
            &["rename", "a", "b", "c"],
            "\"walnut rename\" requires exactly 2 arguments",
        ),
        (
            &["images", "a", "b"],
            "\"walnut images\" requires at most 1 argument",
        ),
        (
            &["commit"],
            "\"walnut commit\" requires at least 1 and at most 2 arguments",
        ),
        (
            &["network", "rm"],
            "\"walnut network rm\" requires at least 1 argument",
        ),
        (
            &["container", "prune", "x"],
            "\"walnut container prune\" accepts no arguments",
        ),
    ] {
        let (words, code) = words(line);
        assert_eq!((words.split(';').next(), code), (Some(said), 1), "{line:?}");
    }
}

#[test]
fn help_is_no_mistake() {
    for line in [
        &["--help"][..],
        &["run", "--help"],
        &["--version"],
        &["doctor", "--help"],
        &["help"],
        &["help", "network", "create"],
    ] {
        let error = parse(line).unwrap_err();
        assert!(
            error.as_help().is_some() && error.exit_code() == 0,
            "{line:?}"
        );
    }
    // `-h` is the host name, as in Docker.
    assert_eq!(run(&["-h", "box", "i"]).hostname.as_deref(), Some("box"));
}

#[test]
fn every_verb_has_examples() {
    // `container ls` has those of `ps`.
    fn look(verb: &clap::Command, words: &str, without: &mut Vec<String>) {
        for below in verb.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            look(below, &format!("{words} {}", below.get_name()), without);
        }
        let help = verb.get_after_help().map(ToString::to_string);
        let has_examples = help.is_some_and(|help| help.contains("Examples:\n  walnut"));
        if !verb.has_subcommands() && !has_examples {
            without.push(words.to_owned());
        }
    }
    let mut built = Cli::command();
    built.build();
    let mut without = Vec::new();
    look(&built, "walnut", &mut without);
    assert!(without.is_empty(), "{without:#?}");
}
