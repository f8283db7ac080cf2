// SPDX-License-Identifier: Apache-2.0
//! The names by which rows, contenders and metrics find each other.

pub mod row {
    pub const START: &str = "start";
    pub const TEMPLATE: &str = "template";
    pub const CHECKPOINT: &str = "checkpoint";
    pub const PHASES: &str = "phases";
    pub const EXITS: &str = "exits";
    pub const REASONS: &str = "exit reasons";
    pub const MEMORY: &str = "memory";
    pub const SIZES: &str = "sizes";
    pub const STDIO: &str = "stdio";
    pub const FILES: &str = "files";
    pub const LOAD: &str = "load";
    pub const PULL: &str = "pull";
    pub const EXEC: &str = "exec";
    pub const PS: &str = "ps";
    pub const LOGS: &str = "logs";
    pub const IDLE: &str = "idle";
    pub const BACK: &str = "back";
    pub const NET: &str = "net";
    pub const NET_START: &str = "net-start";
}

pub mod contender {
    pub const WALNUT_RUN: &str = "walnut run";
    pub const WALNUT_TEMPLATE: &str = "walnut run, template";
    pub const WALNUT: &str = "walnut";
    pub const WALNUT_COLD_CACHE: &str = "walnut run, template, cold page cache";
    pub const WALNUT_INIT: &str = "walnut-vmm to init";
    /// The engine's own machine, from the monitor's start to the agent's hello.
    pub const WALNUT_READY: &str = "walnut-vmm to agent ready";
    pub const QEMU: &str = "QEMU microvm to init";
    pub const CRUN: &str = "crun run";
    pub const RUNC: &str = "runc run";
    pub const PODMAN: &str = "podman run";
    pub const WALNUT_PULL: &str = "walnut pull";
    pub const PODMAN_PULL: &str = "podman pull";
    pub const WALNUT_EXEC: &str = "walnut exec";
    pub const PODMAN_EXEC: &str = "podman exec";
    pub const WALNUT_PS: &str = "walnut ps -a";
    pub const PODMAN_PS: &str = "podman ps -a";
    pub const WALNUT_LOGS: &str = "walnut logs";
    pub const SUPERVISOR: &str = "walnut supervise";
    pub const CROWD: &str = "16 at once";
    pub const PODMAN_LOAD: &str = "podman load";
    pub const TAR: &str = "tar x";
    pub const WALNUT_TAP: &str = "walnut, tap";
    pub const QEMU_TAP: &str = "QEMU microvm, tap";
    pub const WALNUT_PASST: &str = "walnut, passt";
    pub const QEMU_PASST: &str = "QEMU microvm, passt";
    pub const MEMORY_NONE: &str = "walnut, --network none";
    pub const MEMORY_USER: &str = "walnut, --network user";
    pub const COLD_NONE: &str = "cold, none";
    pub const COLD_USER: &str = "cold, user";
    pub const TEMPLATE_NONE: &str = "template, none";
    pub const TEMPLATE_USER: &str = "template, user";
}

pub mod metric {
    pub const FIRST_BYTE: &str = "exec to first byte";
    pub const PSS: &str = "PSS beyond guest memory";
    /// Of the whole process.
    pub const ALL_PSS: &str = "PSS";
    pub const ANSWER: &str = "answers";
    pub const HOST: &str = "host memory each";
    pub const SIZE: &str = "size";
    pub const DIFFERENT: &str = "bytes that differ";
    /// Of a machine that does nothing: guest memory, image and monitor.
    pub const CLONE: &str = "PSS of the 2nd to 32nd idle clone";
    /// Of a start's phases.
    pub const ALL: &str = "all";
    pub const TO_AGENT: &str = "exec of the monitor to the agent's answer";
    pub const USED: &str = "with 400 MiB in use";
    pub const FREED: &str = "6 s after they were freed";
    pub const RATE: &str = "rate";
    pub const PEAK: &str = "peak memory";
    pub const TIME: &str = "time";
    pub const IN: &str = "TCP stream to the guest";
    pub const OUT: &str = "TCP stream from the guest";
    pub const ROUND_TRIP: &str = "1 byte there and back";
    pub const CONNECTIONS: &str = "of 1,000 connections answered";
    pub const OWN: &str = "the monitor's anonymous memory";
}
