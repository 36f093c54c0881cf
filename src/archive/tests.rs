//! Archives that are whole, damaged and hostile.

use std::fs::{self, File};
use std::io::Read as _;

use super::samples::{Saved, digest, member, typed};
use super::*;
use crate::sys::file::Scratch;

const LAYERS: [&[u8]; 4] = [&[1; 3_000], &[2; 512], &[1; 3_000], &[4; 70_000]];

fn saved() -> Saved {
    Saved::new("hakuriver/x:base", &LAYERS)
}

fn describe(bytes: &[u8]) -> Result<Manifest, ArchiveFault> {
    let scratch = Scratch::new();
    let path = scratch.path().join("x-17.tar");
    fs::write(&path, bytes).expect("it can be written");
    Manifest::describe(&path, "x", 17)
}

/// All of a part, read `step` bytes at a time.
fn read(bytes: &[u8], part: &Part, step: usize) -> Vec<u8> {
    let scratch = Scratch::new();
    let path = scratch.path().join("x-17.tar");
    fs::write(&path, bytes).expect("it can be written");
    let mut file = File::open(&path).expect("it is there");
    let image = Image::read(&mut file, "hakuriver/x:base").expect("it is an image");
    let mut all = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        let count = part.read_at(&file, &image, all.len() as u64, &mut buffer).expect("it can be read");
        if count == 0 {
            return all;
        }
        all.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn a_manifest_tells_all_and_comes_back_as_it_was_written() {
    let saved = saved();
    let tar = saved.tar();
    let manifest = describe(&tar).expect("it is whole");
    assert_eq!((manifest.format, manifest.name.as_str(), manifest.version), (1, "x", 17));
    assert_eq!((manifest.tarball.as_str(), manifest.size), ("x-17.tar", tar.len() as u64));
    assert_eq!((manifest.image_id.clone(), manifest.sha256.clone()), (saved.id(), digest(&tar)));
    for (at, layer) in manifest.layers.iter().enumerate() {
        assert_eq!((&layer.diff_id, layer.size), (&digest(LAYERS[at]), LAYERS[at].len() as u64));
        assert_eq!((layer.path.clone(), &layer.digest), (format!("v{at}/layer.tar"), &layer.diff_id));
    }
    assert_eq!(Manifest::decode(manifest.to_json().as_bytes()), Ok(manifest.clone()));
    let ids: Vec<String> = manifest.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    assert_eq!(manifest.shared(&ids), 4);
    assert_eq!(manifest.shared(&ids[..2]), 2);
    assert_eq!(manifest.shared(&ids[1..]), 0, "a layer above others is another one");
    for (before, after) in
        [("\"format\":1", "\"format\":2"), ("sha256:", "sha1:"), ("\"size\":", "\"size\":9000000000000000")]
    {
        assert!(Manifest::decode(manifest.to_json().replacen(before, after, 1).as_bytes()).is_err(), "{after}");
    }
}

#[test]
fn of_several_images_that_with_the_tag_counts() {
    let (ours, other) = (saved(), Saved::new("other:1", &[b"other"]));
    let list = format!("[{},{}]", other.row(), ours.row());
    let config = member(&format!("{}.json", &other.id()["sha256:".len()..]), &other.config());
    let tar = [ours.members(), config, member("manifest.json", list.as_bytes()), vec![0; 1024]].concat();
    assert_eq!(describe(&tar).map(|manifest| manifest.image_id), Ok(ours.id()));
}

#[test]
fn a_part_has_the_missing_layers_once_and_is_the_same_from_every_offset() {
    let tar = saved().tar();
    let manifest = describe(&tar).expect("it is whole");
    for (lowest, contents) in [(0, 73_512), (1, 73_512), (2, 73_000), (3, 70_000), (4, 0), (9, 0)] {
        let part = Part::without(&manifest, lowest);
        let whole = read(&tar, &part, 1 << 20);
        assert_eq!(whole.len() as u64, part.length(), "{lowest}");
        assert_eq!(read(&tar, &part, 777), whole, "{lowest}");
        let frame = part.length() - contents;
        assert!((2_048..8_192).contains(&frame), "{lowest}: {frame} bytes beside the layers");
        let mut check = Check::new(&part);
        for piece in whole.chunks(1_000) {
            assert!(!check.is_whole());
            check.take(piece).expect("it is what it has to be");
        }
        assert!(check.is_whole());
        assert!(check.take(b"x").is_err(), "more than there is");
    }
    // The whole one is an archive as any other.
    let again = describe(&read(&tar, &Part::without(&manifest, 0), 4_096)).expect("it is an archive");
    assert_eq!(again.image_id, manifest.image_id);
}

#[test]
fn each_changed_byte_of_a_part_is_seen() {
    let tar = saved().tar();
    let part = Part::without(&describe(&tar).expect("it is whole"), 1);
    let whole = read(&tar, &part, 4_096);
    for at in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let mut check = Check::new(&part);
        let judged = changed.chunks(512).try_for_each(|piece| check.take(piece));
        assert!(judged.is_err(), "byte {at} of {}", whole.len());
    }
    let mut check = Check::new(&part);
    check.take(&whole[..whole.len() - 1]).expect("so far it is right");
    assert!(!check.is_whole());
}

#[test]
fn what_is_read_from_a_swapped_archive_ends_before_its_list_of_layers() {
    let scratch = Scratch::new();
    let path = scratch.path().join("x-17.tar");
    fs::write(&path, saved().tar()).expect("it can be written");
    let manifest = Manifest::describe(&path, "x", 17).expect("it is whole");
    let part = Part::without(&manifest, 0);
    let open = || {
        let mut file = File::open(&path).expect("it is there");
        let image = Image::read(&mut file, "hakuriver/x:base").expect("its headers are right");
        Reading::new(file, image, &part)
    };
    let mut all = Vec::new();
    open().read_to_end(&mut all).expect("it is right");
    assert_eq!(all.len() as u64, part.length());
    let mut tar = saved().tar();
    let at = tar.iter().rposition(|byte| *byte == 4).expect("the last layer's");
    tar[at] = 5;
    fs::write(&path, tar).expect("it can be written");
    let (mut given, mut reading) = (Vec::new(), open());
    assert!(reading.read_to_end(&mut given).is_err());
    assert!(reading.fault().is_some_and(|fault| fault.0.contains("its layer sha256:") && fault.0.contains("damaged")));
    assert!(!String::from_utf8_lossy(&given).contains("manifest.json"));
}

#[test]
fn damaged_and_hostile_archives_are_refused_with_the_reason() {
    let saved = saved();
    let whole = saved.tar();
    let with = |extra: Vec<u8>| [extra, saved.tar()].concat();
    let changed = |from: &str, to: &str| {
        let list = saved.list().replace(from, to);
        [saved.members(), member("manifest.json", list.as_bytes()), vec![0; 1024]].concat()
    };
    let mut swapped = whole.clone();
    let at = swapped.iter().rposition(|byte| *byte == 4).expect("the last layer's");
    swapped[at] = 5;
    let mut damaged = whole.clone();
    damaged[3] ^= 1;
    let other_config = [
        member(&format!("{}.json", &saved.id()["sha256:".len()..]), b"{\"rootfs\":{\"diff_ids\":[]}}"),
        member("manifest.json", saved.list().as_bytes()),
        vec![0; 1024],
    ];
    let pax = |record: &str| typed("pax", b'x', "", format!("{} {record}\n", record.len() + 4).as_bytes());
    for (name, bytes, expected) in [
        ("empty", Vec::new(), "not a tarball of an image"),
        ("text", b"hello".repeat(1_000), "not a tarball of an image"),
        ("zeros", vec![0; 4_096], "not a tarball of an image"),
        ("no list", [member("readme", b"x"), vec![0; 1024]].concat(), "no manifest.json"),
        ("cut in a layer", whole[..20_000].to_vec(), "truncated"),
        ("cut before the end", whole[..whole.len() - 1_024].to_vec(), "truncated"),
        ("cut in a header", whole[..300].to_vec(), "not a tarball of an image"),
        ("header", damaged, "sum of a header"),
        ("layer", swapped, "v3/layer.tar"),
        ("config", other_config.concat(), "digest differs"),
        ("parent", with(member("../../etc/cron.d/x", b"x")), "leads out of it"),
        ("inner parent", with(member("a/../../x", b"x")), "leads out of it"),
        ("absolute", with(member("/etc/passwd", b"x")), "leads out of it"),
        ("pax parent", with([pax("path=../x"), member("plain", b"x")].concat()), "leads out of it"),
        ("twice", with(member("manifest.json", b"[]")), "twice"),
        ("device", with(typed("null", b'3', "", b"")), "type '3'"),
        ("holes", with([pax("GNU.sparse.major=1"), member("plain", b"x")].concat()), "holes"),
        ("odd attributes", with(typed("pax", b'x', "", b"99 path=x\n")), "attributes"),
        ("names no image", changed(&saved.id()["sha256:".len()..], "../../etc/passwd"), "names no image"),
        ("no layer", changed("v1/layer.tar", "v9/layer.tar"), "lacks the layer"),
        ("fewer", changed(",\"v3/layer.tar\"", ""), "same layers"),
        ("no image", [member("manifest.json", b"[]"), vec![0; 1024]].concat(), "no image in it"),
        ("no json", [member("manifest.json", b"[{"), vec![0; 1024]].concat(), "manifest.json cannot be read"),
    ] {
        let fault = describe(&bytes).expect_err(name);
        assert!(fault.0.contains(expected), "{name}: {fault}");
    }
}

#[test]
fn links_that_lead_out_of_the_archive_are_not_followed() {
    let one = Saved::new("hakuriver/x:base", &[b"layer"]);
    for (target, expected) in
        [("../../layer.tar", "lacks"), ("/etc/passwd", "lacks"), ("../v0/layer.tar", "lacks"), ("../real", "")]
    {
        let config = member(&format!("{}.json", &one.id()["sha256:".len()..]), &one.config());
        let link = typed("v0/layer.tar", b'2', target, b"");
        let list = member("manifest.json", one.list().as_bytes());
        let tar = [config, member("real", b"layer"), link, list, vec![0; 1024]].concat();
        match describe(&tar) {
            Ok(manifest) => assert_eq!((manifest.layers[0].size, expected), (5, "")),
            Err(fault) => assert!(!expected.is_empty() && fault.0.contains(expected), "{target}: {fault}"),
        }
    }
}

#[test]
fn layers_that_lie_compressed_go_by_their_own_digest() {
    let packed: &[u8] = b"\x1f\x8b and so on";
    let hex = digest(packed).split_off("sha256:".len());
    let plain = Saved::new("hakuriver/x:base", &[b"layer"]);
    for (path, is_right) in [(format!("blobs/sha256/{hex}"), true), (format!("blobs/sha256/{}", "0".repeat(64)), false)]
    {
        let list = plain.list().replace("v0/layer.tar", &path);
        let config = member(&format!("{}.json", &plain.id()["sha256:".len()..]), &plain.config());
        let list = member("manifest.json", list.as_bytes());
        let described = describe(&[config, member(&path, packed), list, vec![0; 1024]].concat());
        assert_eq!(described.is_ok(), is_right, "{described:?}");
        if let Ok(manifest) = described {
            assert_eq!((&manifest.layers[0].diff_id, &manifest.layers[0].digest), (&digest(b"layer"), &digest(packed)));
        }
    }
}

#[test]
fn long_names_and_large_sizes_are_read_from_attributes() {
    let name = "n".repeat(150);
    let one = Saved::new("hakuriver/x:base", &[b"layer"]);
    let list = member("manifest.json", one.list().replace("v0/layer.tar", &name).as_bytes());
    let config = member(&format!("{}.json", &one.id()["sha256:".len()..]), &one.config());
    let attributes = format!("160 path={name}\n9 size=5\n");
    let mut layer = member("short", b"layer");
    // As Go writes a size that does not fit.
    layer[124..135].copy_from_slice(b"00000000000");
    layer[148..156].fill(b' ');
    let sum: u64 = layer[..512].iter().map(|byte| u64::from(*byte)).sum();
    layer[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let tar = [config, typed("pax", b'x', "", attributes.as_bytes()), layer, list, vec![0; 1024]].concat();
    assert_eq!(describe(&tar).map(|manifest| manifest.layers[0].size), Ok(5));
    let head = super::tar::header("x", 9 << 30);
    assert_eq!(super::tar::number(&head[124..136]), Some(9 << 30));
    assert_eq!(super::tar::number(b"00000001750\0"), Some(1000));
    assert_eq!(super::tar::number(b"xyz         "), None);
}

#[test]
fn an_image_gets_a_tag_where_docker_allows_the_name() {
    for (env, allowed) in
        [("base", true), ("a-1_b.c", true), ("Base", false), ("a--b", false), ("a_", false), ("a..b", false)]
    {
        assert_eq!(names::repository(env), allowed.then(|| format!("hakuriver/{env}")), "{env}");
    }
}
