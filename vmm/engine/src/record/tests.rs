// SPDX-License-Identifier: Apache-2.0

use std::fs;
use std::sync::Barrier;

use super::*;
use crate::container::testing::container;
use crate::paths::Paths;

struct Place {
    _temp: tempfile::TempDir,
    registry: Registry,
    dir: PathBuf,
}

fn place() -> Place {
    let temp = tempfile::tempdir().unwrap();
    let paths = Paths::within(temp.path());
    Place {
        registry: Registry::new(&paths),
        dir: paths.containers(),
        _temp: temp,
    }
}

impl Place {
    fn create(&self, flags: &[&str], state: &State) -> Result<(Entry, Alive), RecordError> {
        let mut config = Config::new(container(flags), "image", None, None);
        self.registry.create(&mut config, state)
    }

    fn made(&self, flags: &[&str], state: &State) -> Entry {
        self.create(flags, state).unwrap().0
    }
}

fn state(status: Status) -> State {
    State {
        status,
        ..State::default()
    }
}

#[test]
fn what_is_written_is_read() {
    let place = place();
    let flags = [
        "--name",
        "web",
        "-v",
        "/usr:/x:ro",
        "--cap-add",
        "SYS_ADMIN",
        "-m",
        "64m",
        "-l",
        "a=b",
        "--ulimit",
        "nofile=5",
        "--cpus",
        "1.5",
        "--sysctl",
        "kernel.sem=1",
        "--restart",
        "always",
    ];
    let entry = place.made(&flags, &state(Status::Created));
    let config = entry.config().unwrap();
    let container = &config.container;
    assert_eq!((config.name(), config.image.as_str()), ("web", "image"));
    assert_eq!(container.id.as_str(), entry.id());
    assert!(container.security.capabilities.contains("CAP_SYS_ADMIN"));
    assert_eq!(container.limits.memory, Some(64 << 20));
    assert_eq!(container.labels["a"], "b");
    assert_eq!(entry.state().unwrap(), State::default());
}

#[test]
fn by_name_by_id_by_its_beginning() {
    let place = place();
    let web = place.made(&["--name", "web"], &State::default());
    let other = place.made(&[], &State::default());
    let find = |text: &str| place.registry.find(text).map(|entry| entry.id);
    for text in ["web", "/web", web.id(), web.short(), &web.id()[..8]] {
        assert_eq!(find(text).unwrap(), web.id(), "{text}");
    }
    let generated = other.config().unwrap();
    assert!(generated.name().contains('_'), "{}", generated.name());
    assert_eq!(find(generated.name()).unwrap(), other.id());
    for bad in ["", "nosuch", "../web", "names", "lock", ".", "web/../web"] {
        let said = find(bad).unwrap_err().to_string();
        assert_eq!(said, format!("No such container: {bad}"));
    }
    assert_eq!(place.registry.list().len(), 2);
}

#[test]
fn a_name_is_one_containers() {
    let place = place();
    let first = place.made(&["--name", "web"], &State::default());
    let said = place
        .create(&["--name", "web"], &State::default())
        .unwrap_err()
        .to_string();
    assert!(
        said.starts_with("Conflict. The container name \"/web\" is already in use"),
        "{said}"
    );
    assert!(said.contains(first.id()));
    assert_eq!(place.registry.list().len(), 1, "nothing is left of it");
    place.registry.rename(&first, "db").unwrap();
    assert!(place.registry.find("web").is_err());
    assert_eq!(place.registry.find("db").unwrap().id(), first.id());
    let second = place.made(&["--name", "web"], &State::default());
    assert!(place.registry.rename(&second, "db").is_err());
    first.remove().unwrap();
    place.registry.rename(&second, "db").unwrap();
}

#[test]
fn of_two_at_once_one_gets_a_name() {
    let place = place();
    for round in 0..500 {
        let make = || {
            place
                .create(&["--rm", "--name", "web"], &State::default())
                .ok()
        };
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| make().map(|(entry, _)| entry));
            (make().map(|(entry, _)| entry), one.join().unwrap())
        });
        let made: Vec<Entry> = one.into_iter().chain(other).collect();
        let [entry] = &made[..] else {
            panic!("round {round}: {made:?}");
        };
        entry.remove().unwrap();
    }
}

#[test]
fn a_link_to_what_is_gone_is_free() {
    let place = place();
    let entry = place.made(&["--name", "web"], &State::default());
    fs::remove_dir_all(entry.dir()).unwrap();
    place.made(&["--name", "web"], &State::default());
}

#[test]
fn one_runs_it_at_a_time() {
    let place = place();
    let (entry, alive) = place
        .create(
            &[],
            &State {
                starting: true,
                ..State::default()
            },
        )
        .unwrap();
    let change = entry.change().unwrap();
    assert!(entry.is_alive().unwrap());
    assert!(matches!(entry.claim(&change), Err(RecordError::Running(_))));
    drop(alive);
    assert!(!entry.is_alive().unwrap());
    let again = entry.claim(&change).unwrap();
    assert!(entry.is_alive().unwrap());
    drop(again);
}

/// Whoever looks at its files may take all the time in the world; whoever wrote its end is about to go.
#[test]
fn a_visitor_is_not_waited_for() {
    let place = place();
    let (entry, alive) = place.create(&[], &state(Status::Exited)).unwrap();
    let visit = entry.visit().unwrap();
    let change = entry.change().unwrap();
    let in_use = entry.claim(&change).unwrap_err();
    assert!(matches!(in_use, RecordError::InUse(_)), "{in_use}");
    drop(visit);
    std::thread::scope(|scope| {
        scope.spawn(|| drop(alive));
        entry.claim(&change).unwrap();
    });
}

#[test]
fn the_next_reader_writes_the_truth() {
    let place = place();
    let running = place.made(&[], &state(Status::Running));
    let removed = place.made(&["--rm"], &state(Status::Restarting));
    let starting = State {
        starting: true,
        ..State::default()
    };
    let never_ran = place.made(&[], &starting);
    let unfinished = place.dir.join("0".repeat(64));
    fs::create_dir(&unfinished).unwrap();
    names::take(&place.dir, "cut_short", &"0".repeat(64)).unwrap();
    let broken = place.made(&[], &State::default());
    fs::write(broken.dir().join("container.json"), "{").unwrap();
    let newer = place.made(&[], &State::default());
    fs::write(newer.dir().join("container.json"), r#"{"version":99}"#).unwrap();
    let (alive_entry, _alive) = place.create(&[], &state(Status::Running)).unwrap();

    let ids: Vec<_> = place
        .registry
        .list()
        .into_iter()
        .map(|(e, ..)| e.id)
        .collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    let truth = running.raw_state().unwrap();
    assert_eq!((truth.status, truth.exit_code), (Status::Exited, 137));
    assert!(!removed.dir().exists() && !unfinished.exists());
    assert!(
        place
            .dir
            .join("names/cut_short")
            .symlink_metadata()
            .is_err()
    );
    let truth = never_ran.raw_state().unwrap();
    assert!(truth.status == Status::Created && !truth.starting);
    assert_eq!(alive_entry.state().unwrap().status, Status::Running);
    assert!(broken.dir().exists() && newer.dir().exists());
    assert!(matches!(
        newer.config(),
        Err(RecordError::Newer { version: 99, .. })
    ));
}

#[test]
fn removed_with_its_name() {
    let place = place();
    let entry = place.made(&["--name", "web"], &State::default());
    fs::write(entry.log(), "x").unwrap();
    entry.remove().unwrap();
    assert!(!entry.dir().exists());
    assert!(place.registry.find("web").is_err());
    assert_eq!(fs::read_dir(place.dir.join("names")).unwrap().count(), 0);
    assert!(matches!(entry.change(), Err(RecordError::NotFound(_))));
}

/// Whichever is first: no name is left that leads nowhere.
#[test]
fn renamed_while_it_is_removed() {
    let place = place();
    let both = Barrier::new(2);
    for round in 0..500_u32 {
        let entry = place.made(&["--name", "one"], &State::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                both.wait();
                let change = entry.change().unwrap();
                let _alive = entry.claim(&change).unwrap();
                entry.remove().unwrap();
            });
            both.wait();
            // At each moment of the other one's work.
            (0..round).for_each(|_| std::thread::yield_now());
            match place.registry.rename(&entry, "two") {
                Ok(()) | Err(RecordError::NotFound(_)) => {}
                Err(other) => panic!("{other}"),
            }
        });
        // Whoever waits for its lock may have made another one in what is left.
        assert!(place.registry.list().is_empty());
        assert!(!entry.dir().exists());
        assert_eq!(fs::read_dir(place.dir.join("names")).unwrap().count(), 0);
    }
}
