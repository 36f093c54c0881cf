//! Any bytes as what Docker says of environments' containers.

use super::words::{self, Pull};

/// Each line of them and all at once.
pub(crate) fn docker(bytes: &[u8]) {
    for row in words::listed(bytes) {
        let fields = [&row.id, &row.name, &row.image, &row.status];
        assert!(fields.into_iter().all(|field| !field.contains(['\t', '\n'])));
    }
    if let Ok(Some(found)) = words::found(bytes, "my-env") {
        assert!(found.task().is_none_or(|task| !task.is_empty()));
        assert!(!(found.is_environment("c", "my-env") && found.is_of_other_cluster("c", "my-env")));
    }
    let _image = words::image_of(bytes);
    let (text, mut pull) = (String::from_utf8_lossy(bytes), Pull::default());
    for line in text.lines() {
        let _told = pull.line(line);
    }
}
