// SPDX-License-Identifier: Apache-2.0
//! Software as people run it, in a Debian image (`make software-image` makes it): what stands on
//! fsync, locks, hard links and signals has to find them.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use walnut_tests::harness::{Done, Home, network, process, skip};
use walnut_tests::place;

const IMAGE: &str = "debian:software";
/// Under emulation, a database's first start takes its time.
const DEADLINE: Duration = Duration::from_secs(300);

/// A home whose images are those of the store that the image was imported into.
fn home() -> Option<Home> {
    let images = place::test_images().join("debian-store/images");
    if !images.exists() {
        skip("no Debian image: make software-image");
        return None;
    }
    let Some(home) = Home::new() else {
        skip("no KVM that runs a stock kernel");
        return None;
    };
    fs::create_dir_all(home.root()).unwrap();
    symlink(images, home.root().join("images")).unwrap();
    Some(home)
}

fn run(home: &Home, flags: &[&str], script: &str) -> Done {
    let command = [IMAGE, "bash", "-ec", script];
    let line = ["run", "--rm", "--memory", "512m"];
    let line = line.iter().chain(flags).chain(&command);
    home.walnut(line).deadline(DEADLINE).run()
}

fn exec(home: &Home, name: &str, script: &str) -> String {
    let line = ["exec", name, "bash", "-ec", script];
    let done = home.walnut(line).deadline(DEADLINE).run();
    done.succeeded();
    String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
}

const POSTGRES: &str = "export PATH=$PATH:/usr/lib/postgresql/15/bin PGDATA=/db/data PGHOST=/tmp\n";

#[test]
fn postgres_loses_no_committed_row() {
    let Some(home) = home() else { return };
    let script = format!(
        "{POSTGRES} install -d -o postgres -m 700 /db/data; cd /tmp; \
         test -e /db/data/PG_VERSION || setpriv --reuid postgres --regid postgres --clear-groups \
         initdb -A trust --no-instructions > /dev/null; \
         exec setpriv --reuid postgres --regid postgres --clear-groups postgres \
         -c listen_addresses= -c unix_socket_directories=/tmp"
    );
    let flags = ["--memory", "512m", "-v", "pg:/db"];
    let line = ["run", "-d", "--name", "db"].iter().chain(&flags);
    let command = [IMAGE, "bash", "-ec", &script];
    home.walnut(line.chain(&command)).run().succeeded();
    let psql = format!(
        "{POSTGRES} until psql -U postgres -qc 'select 1' > /dev/null 2>&1; do sleep 0.2; done; psql -U postgres -Atq"
    );
    let rows = exec(
        &home,
        "db",
        &format!(
            "{psql} -c 'create table t(n int)' -c 'insert into t select generate_series(1, 1000)' -c \
             'select count(*) from t'; pgbench -U postgres -iq -s 1 postgres > /dev/null 2>&1; psql \
             -U postgres -Atqc 'select count(*) from pgbench_accounts'"
        ),
    );
    assert_eq!(rows, "1000\n100000");
    // The power fails.
    process::kill(home.monitor("db"));
    let _ = home.walnut(["wait", "db"]).deadline(DEADLINE).run();
    home.walnut(["start", "db"]).run().succeeded();
    let rows = exec(
        &home,
        "db",
        &format!("{psql} -c 'select count(*) from t' -c 'select count(*) from pgbench_accounts'"),
    );
    assert_eq!(rows, "1000\n100000");
    home.walnut(["stop", "db"])
        .deadline(DEADLINE)
        .run()
        .succeeded();
    home.remove_all();
    home.assert_clean();
}

/// A server and a client at work, written down and gone on with, twice from the same moment.
#[test]
fn postgres_survives_a_checkpoint() {
    let Some(home) = home() else { return };
    const TRANSACTIONS: u32 = 300;
    let as_postgres = "setpriv --reuid postgres --regid postgres --clear-groups";
    let script = format!(
        "{POSTGRES} install -d -o postgres -m 700 /db /db/data; cd /tmp; \
         {as_postgres} initdb -A trust --no-instructions > /dev/null; \
         exec {as_postgres} postgres -c listen_addresses= -c unix_socket_directories=/tmp"
    );
    let line = ["run", "-d", "--name", "db", "--memory", "512m", IMAGE];
    home.walnut(line.iter().chain(&["bash", "-ec", &script]))
        .run()
        .succeeded();
    let up = "until psql -U postgres -qc 'select 1' > /dev/null 2>&1; do sleep 0.2; done";
    let fill = "pgbench -U postgres -iq -s 1 postgres > /dev/null 2>&1";
    let _ = exec(&home, "db", &format!("{POSTGRES} {up}; {fill}"));
    let work = format!(
        "{POSTGRES} pgbench -U postgres -n -c 1 -t {TRANSACTIONS} postgres > /work 2>&1; \
         echo ended $? >> /work"
    );
    home.walnut(["exec", "-d", "db", "bash", "-c", &work])
        .run()
        .succeeded();
    let some = "until [ $(psql -U postgres -Atc 'select count(*) from pgbench_history') -gt 5 ]; \
                do sleep 0.1; done";
    let _ = exec(&home, "db", &format!("{POSTGRES} {some}"));
    home.walnut(["checkpoint", "create", "db", "busy"])
        .deadline(DEADLINE)
        .run()
        .succeeded();
    for _ in 0..2 {
        home.walnut(["start", "--checkpoint", "busy", "db"])
            .deadline(DEADLINE)
            .run()
            .succeeded();
        let sums = "until grep -q ended /work; do sleep 0.2; done; tail -n 1 /work; \
                    psql -U postgres -Atc 'select count(*) from pgbench_history' -c \
                    'select (select sum(delta) from pgbench_history) = \
                     (select sum(abalance) from pgbench_accounts)'";
        let sums = exec(&home, "db", &format!("{POSTGRES} {sums}"));
        assert_eq!(sums, format!("ended 0\n{TRANSACTIONS}\nt"));
        home.walnut(["kill", "db"]).run().succeeded();
    }
    home.remove_all();
    home.assert_clean();
}

/// Server and client in two machines, by name, on a network of their own.
#[test]
fn postgres_over_a_network() {
    let Some(home) = home() else { return };
    if !network::has_passt() {
        return skip("no passt");
    }
    home.walnut(["network", "create", "back"]).run().succeeded();
    let script = format!(
        "{POSTGRES} as='setpriv --reuid postgres --regid postgres --clear-groups'; \
         install -d -o postgres -m 700 /db/data; cd /tmp; $as initdb -A trust --no-instructions \
         > /dev/null; echo 'host all all samenet trust' >> /db/data/pg_hba.conf; \
         exec $as postgres -c listen_addresses='*' -c unix_socket_directories=/tmp"
    );
    let flags = ["--memory", "512m", "--network", "back", "--tmpfs", "/db"];
    let command = [IMAGE, "bash", "-ec", &script];
    let line = ["run", "-d", "--name", "db", "--network-alias", "store"];
    let line = line.iter().chain(&flags).chain(&command);
    home.walnut(line).deadline(DEADLINE).run().succeeded();
    // Rows of some size, both ways, and several clients at once.
    let client = "until psql -h db -U postgres -qc 'select 1' > /dev/null 2>&1; do sleep 0.2; done\n\
                  p='psql -h store -U postgres -Atq'\n\
                  $p -c 'create table t(n int, x text)'\n\
                  seq 2000 | sed \"s/$/\\t$(printf '%01000d' 0)/\" | $p -c 'copy t from stdin'\n\
                  $p -c 'select count(*), sum(n), sum(length(x)) from t'\n\
                  $p -c 'copy t to stdout' | wc -c\n\
                  for n in $(seq 8); do $p -c \"insert into t values ($n, 'parallel')\" & done; wait\n\
                  $p -c \"select count(*) from t where x = 'parallel'\"\n\
                  getent hosts db | wc -l";
    let done = run(&home, &["--network", "back"], client);
    done.succeeded()
        .says("2000|2001000|2000000\n2010893\n8\n1\n");
    home.remove_all();
    home.walnut(["network", "rm", "back"]).run().succeeded();
}

#[test]
fn redis_and_nginx() {
    let Some(home) = home() else { return };
    let redis = "redis-server --save '' --appendonly yes --dir /data --daemonize yes > /dev/null; \
                 until redis-cli ping > /dev/null 2>&1; do sleep 0.1; done; \
                 redis-cli set key value; redis-cli incrby n 41; redis-cli shutdown";
    run(&home, &["-v", "redis:/data"], redis)
        .succeeded()
        .says("OK\n41\n");
    let again = "redis-server --appendonly yes --dir /data --daemonize yes > /dev/null; \
                 until redis-cli ping > /dev/null 2>&1; do sleep 0.1; done; \
                 redis-cli get key; redis-cli incr n";
    run(&home, &["-v", "redis:/data"], again)
        .succeeded()
        .says("value\n42\n");
    let nginx = "echo page > /var/www/html/index.html; nginx; exec 3<>/dev/tcp/127.0.0.1/80; \
                 printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3; nginx -s quit";
    run(&home, &[], nginx).succeeded().says("page\n");
    home.assert_clean();
}

#[test]
fn what_developers_do() {
    let Some(home) = home() else { return };
    let python = "cd /work; python3 - << 'END'\nimport os, sqlite3\nd = sqlite3.connect('/work/a.db')\n\
                  d.execute('create table t(n)')\nd.executemany('insert into t values (?)', [(n,) for \
                  n in range(1000)])\nd.commit()\nd.close()\nfd = os.open('/work', os.O_DIRECTORY)\n\
                  os.fsync(fd)\nprint(sqlite3.connect('/work/a.db').execute('select sum(n) from \
                  t').fetchone()[0])\nEND\n";
    let git = "cd /work; git init -q one; cd one; git config user.email a@b; git config user.name a; \
               for n in $(seq 20); do echo $n > f$n; done; git add .; git commit -qm first; cd ..; git \
               clone -q one two; git -C two log --format=%s; ls two | wc -l; git -C two fsck";
    let make = "cd /work; printf '#include <stdio.h>\\nint two(void);\\nint main(void) { printf(\"%%d\\\\n\", \
                two()); }\\n' > one.c; echo 'int two(void) { return 2; }' > two.c; printf 'prog: one.o \
                two.o\\n\\t$(CC) -o $@ $^\\n' > Makefile; make -sj2; ./prog";
    for (script, said) in [(python, "499500\n"), (git, "first\n20\n"), (make, "2\n")] {
        // On a volume, in the container's own files, and on a directory of the host.
        let dir = tempfile::tempdir_in(home.path()).unwrap();
        let bind = format!("{}:/work", dir.path().display());
        for flags in [
            &["-v", "/work"][..],
            &["--tmpfs", "/work:exec"],
            &["-v", &bind],
        ] {
            let done = run(&home, flags, script);
            done.succeeded().says(said);
        }
    }
    home.assert_clean();
}

#[test]
fn systemd_runs_services() {
    let Some(home) = home() else { return };
    // By itself it has not the rights; under an init it is not the first process.
    let plain = home.walnut(["run", "--rm", IMAGE, "/sbin/init"]).run();
    plain.exited(126).complains(&["--privileged"]);
    let line = ["run", "--rm", "--init", IMAGE, "/sbin/init"];
    let second = home.walnut(line).run();
    second.exited(1).complains(&["telinit"]);
    let flags = [
        "--privileged",
        "--stop-signal",
        "SIGRTMIN+3",
        "--memory",
        "512m",
    ];
    let line = ["run", "-d", "--name", "sd"].iter().chain(&flags);
    home.walnut(line.chain(&[IMAGE, "/sbin/init"]))
        .run()
        .succeeded();
    let up = "until systemctl list-units > /dev/null 2>&1; do sleep 0.2; done; \
              systemctl is-system-running --wait";
    assert_eq!(exec(&home, "sd", up), "running");
    let job = "printf '[Service]\\nType=oneshot\\nExecStart=/bin/sh -c \"echo fired > /fired\"\\n' > \
               /etc/systemd/system/job.service; systemctl daemon-reload; systemctl start job; cat /fired";
    assert_eq!(exec(&home, "sd", job), "fired");
    let active = "systemctl is-active redis-server nginx postgresql";
    assert_eq!(exec(&home, "sd", active), "active\nactive\nactive");
    let stopped = home
        .walnut(["stop", "-t", "120", "sd"])
        .deadline(DEADLINE)
        .run();
    stopped.succeeded();
    // systemd's own end, as Docker shows it; SIGKILL would be 137.
    let code = home.says(&["inspect", "-f", "{{.State.ExitCode}}", "sd"]);
    assert_eq!(code, "130");
    home.remove_all();
    home.assert_clean();
}

#[test]
fn apt_and_cron() {
    let Some(home) = home() else { return };
    let mirror = home.path().join("mirror");
    fs::create_dir(&mirror).unwrap();
    let build = "mkdir -p /tmp/hello/DEBIAN /tmp/hello/usr/bin; printf 'Package: hello-walnut\\n\
                 Version: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: x\\n' > \
                 /tmp/hello/DEBIAN/control; printf '#!/bin/sh\\necho installed\\n' > \
                 /tmp/hello/usr/bin/hello-walnut; chmod 755 /tmp/hello/usr/bin/hello-walnut; dpkg-deb \
                 -b /tmp/hello /mirror/hello.deb > /dev/null; cd /mirror; dpkg-scanpackages . > Packages \
                 2> /dev/null";
    let bind = format!("{}:/mirror", mirror.display());
    run(&home, &["-v", &bind], build).succeeded();
    let install = "echo 'deb [trusted=yes] file:/mirror ./' > /etc/apt/sources.list; rm -f \
                   /etc/apt/sources.list.d/*; apt-get update > /tmp/log 2>&1 && apt-get install -y \
                   hello-walnut > /tmp/log 2>&1 || cat /tmp/log; hello-walnut";
    run(&home, &["-v", &bind], install)
        .succeeded()
        .says("installed\n");
    let cron = "echo '* * * * * root echo fired > /fired' > /etc/cron.d/job; chmod 644 /etc/cron.d/job; \
                cron; until test -s /fired; do sleep 1; done; cat /fired";
    run(&home, &["--init"], cron).succeeded().says("fired\n");
    home.assert_clean();
}
