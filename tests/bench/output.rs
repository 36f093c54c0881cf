//! How fast what a task wrote gets from its node to the Host, and from there to a reader.

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use hakuriver::domain::ids::{Attempt, TaskId};
use hakuriver::net::http_client::Client;
use hakuriver::runner::Join;
use hakuriver::runner::link::Link;
use hakuriver::runner::output::{Outputs, Place};
use hakuriver::sys::shutdown::Stop;

use crate::env::{Cluster, Settings};
use crate::fake_node::{FakeNode, Hardware, observed};
use crate::figure::Figure;

const SIZE: usize = 1 << 30;
const RUNS: usize = 3;
const LONG: Duration = Duration::from_secs(300);

pub fn measure() -> Vec<Figure> {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let node = FakeNode::silent(&cluster, "n1", &Hardware::cores("0-7", &[]));
    let join = Join { host: format!("127.0.0.1:{}", cluster.api), node_token: Some(cluster.node_token()) };
    let link = Arc::new(Link::new(&join, "n1"));
    link.register(&node.register).unwrap();
    let (stop, (tell, settled)) = (Stop::new(), channel());
    let outputs = Outputs::open(link.clone(), tell, &stop).unwrap();
    let (mut shipped, mut read, mut copied) = (Vec::new(), Vec::new(), Vec::new());
    let speed = |begin: Instant| SIZE as f64 / 1e6 / begin.elapsed().as_secs_f64();
    let record = cluster.dir.join("record");
    std::fs::create_dir_all(record.join("out")).unwrap();
    std::fs::write(record.join("out/stdout"), vec![b'x'; SIZE]).unwrap();
    std::fs::write(record.join("out/stderr"), "").unwrap();
    for _ in 0..RUNS {
        let body = r#"{"task_type":"command","command":"true","container_name":"NULL","targets":["n1"]}"#;
        let id = crate::tasks::ids(&cluster.post("/submit", body).text()).remove(0);
        node.observe(false, vec![observed(&id, 1, 1, "running", None)]);
        let task = TaskId::from_u64(id.parse().unwrap());
        let begin = Instant::now();
        outputs.watch(task, Attempt::FIRST, Place::folder(record.join("out")));
        outputs.ended(task, Attempt::FIRST);
        settled.recv_timeout(LONG).unwrap();
        shipped.push(speed(begin));
        outputs.forget(task, Attempt::FIRST);

        let begin = Instant::now();
        let client = Client::new(&format!("http://127.0.0.1:{}", cluster.api), Some(&cluster.token()));
        let (status, mut stream) = client.stream(&format!("/task/{id}/stdout"), LONG).unwrap();
        assert_eq!(status, 200);
        let (mut buffer, mut count) = (vec![0; 256 << 10], 0);
        while count < SIZE {
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0, "{count} bytes");
            count += n;
        }
        read.push(speed(begin));

        let begin = Instant::now();
        std::fs::copy(record.join("out/stdout"), cluster.dir.join("copy")).unwrap();
        copied.push(speed(begin));
        std::fs::remove_file(cluster.dir.join("copy")).unwrap();
        std::fs::remove_file(cluster.dir.join(format!("shared/task_outputs/{id}.out"))).unwrap();
    }
    stop.set();
    link.close();
    vec![
        Figure::new("output: node to Host", "MB/s", &shipped).against("copy of the file", &copied),
        Figure::new("output: Host to reader", "MB/s", &read).against("copy of the file", &copied),
    ]
}
