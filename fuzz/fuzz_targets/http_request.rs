#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hakuriver::fuzzing::http_request(bytes));
