// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_WRITE;
use vm_memory::{Bytes, GuestAddress};

use super::{Balloon, INFLATE, PAGE_REPORTING, QUEUE_SIZES, REPORTING};
use crate::memory::PAGE;
use crate::virtio::VirtioDevice as _;
use crate::virtio::test_driver::Driver;

const DEFLATE: usize = 1;

fn driver(features: u64) -> (Driver, Balloon) {
    let mut driver = Driver::new(QUEUE_SIZES);
    let mut balloon = Balloon::new();
    driver.activate(&mut balloon, features);
    (driver, balloon)
}

/// Fills `count` pages behind the buffers; where they are.
fn fill(driver: &Driver, count: u64) -> u64 {
    let at = Driver::buffers() + (1 << 20);
    let bytes = vec![0xaa; usize::try_from(count * PAGE).unwrap()];
    driver.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
    at
}

/// Whether the page at `at` still holds what [`fill`] wrote.
fn is_kept(driver: &Driver, at: u64) -> bool {
    let mut page = [0; 4096];
    driver
        .memory
        .read_slice(&mut page, GuestAddress(at))
        .unwrap();
    assert!(page == [0xaa; 4096] || page == [0; 4096]);
    page == [0xaa; 4096]
}

fn kept(driver: &Driver, at: u64, count: u64) -> Vec<bool> {
    (0..count).map(|i| is_kept(driver, at + i * PAGE)).collect()
}

fn numbers(pages: &[u64]) -> Vec<u8> {
    pages
        .iter()
        .flat_map(|page| u32::try_from(page / PAGE).unwrap().to_le_bytes())
        .collect()
}

#[test]
fn reported_ranges_are_given_back() {
    let (mut driver, _balloon) = driver(PAGE_REPORTING);
    let at = fill(&driver, 6);
    let ranges = [
        (at, 8192, VRING_DESC_F_WRITE),
        (at + 4 * PAGE, 4096, VRING_DESC_F_WRITE),
    ];
    assert_eq!(driver.chain(REPORTING, &ranges), Some(0));
    let expected = [false, false, true, true, false, true];
    assert_eq!(kept(&driver, at, 6), expected);
}

#[test]
fn parts_of_pages_are_kept() {
    let (mut driver, _balloon) = driver(PAGE_REPORTING);
    let at = fill(&driver, 3);
    let range = (at + 1, 2 * 4096 + 4095, VRING_DESC_F_WRITE);
    driver.chain(REPORTING, &[range]);
    assert_eq!(kept(&driver, at, 3), [true, false, false]);
    let at = fill(&driver, 2);
    driver.chain(REPORTING, &[(at + 1, 4096, VRING_DESC_F_WRITE)]);
    driver.chain(REPORTING, &[(at + 1, 100, VRING_DESC_F_WRITE)]);
    assert_eq!(kept(&driver, at, 2), [true, true]);
}

#[test]
fn without_the_feature_nothing_is_reported() {
    let (mut driver, _balloon) = driver(0);
    let at = fill(&driver, 1);
    driver.chain(REPORTING, &[(at, 4096, VRING_DESC_F_WRITE)]);
    assert_eq!(kept(&driver, at, 1), [true]);
}

#[test]
fn readable_buffers_are_no_report() {
    let (mut driver, _balloon) = driver(PAGE_REPORTING);
    let at = fill(&driver, 1);
    driver.chain(REPORTING, &[(at, 4096, 0)]);
    assert_eq!(kept(&driver, at, 1), [true]);
}

#[test]
fn pages_in_the_balloon_are_given_back() {
    let (mut driver, _balloon) = driver(0);
    let at = fill(&driver, 5);
    let pages = numbers(&[at, at + PAGE, at + 4 * PAGE]);
    // A number may lie in two buffers.
    driver.request(INFLATE, &[&pages[..6], &pages[6..]], &[]);
    assert_eq!(kept(&driver, at, 5), [false, false, true, true, false]);
    let at = fill(&driver, 1);
    driver.request(DEFLATE, &[&numbers(&[at])], &[]);
    assert_eq!(kept(&driver, at, 1), [true]);
}

#[test]
fn the_driver_says_how_large_the_balloon_is() {
    let (mut driver, mut balloon) = driver(0);
    balloon.write_config(4, &7u32.to_le_bytes());
    // Neither what is asked for nor anything behind is the driver's to write.
    balloon.write_config(0, &9u32.to_le_bytes());
    balloon.write_config(4, &[1, 2]);
    assert_eq!(balloon.config(), [0, 0, 0, 0, 7, 0, 0, 0]);
    let state = driver.handler().save().unwrap();
    let mut restored = Balloon::new();
    driver.activate(&mut restored, 0);
    driver.handler().restore(state).unwrap();
    assert_eq!(restored.config()[4..], 7u32.to_le_bytes());
    assert!(driver.handler().restore(serde_json::json!(7)).is_err());
}

proptest! {
    #[test]
    fn any_range_and_any_page_only_ever_lose_their_own(
        start: u64,
        len: u32,
        near in -20_000i64..20_000,
        pages: Vec<u32>,
    ) {
        let (mut driver, _balloon) = driver(PAGE_REPORTING);
        let at = fill(&driver, 4);
        driver.chain(REPORTING, &[(start | 1 << 63, len, VRING_DESC_F_WRITE)]);
        let pages: Vec<u8> = pages.iter().flat_map(|page| (page | 1 << 31).to_le_bytes()).collect();
        driver.request(INFLATE, &[&pages], &[]);
        prop_assert_eq!(kept(&driver, at, 4), [true; 4]);
        let near = at.wrapping_add_signed(near);
        let len = len % 20_000;
        driver.chain(REPORTING, &[(near, len, VRING_DESC_F_WRITE)]);
        for (page, kept) in (0..).map(|i| at + i * PAGE).zip(kept(&driver, at, 4)) {
            let inside = near <= page && page + PAGE <= near + u64::from(len);
            prop_assert_eq!(kept, !inside);
        }
    }
}
