# What a developer and the CI call. Every target that needs Docker sets it up first (scripts/setup.sh), as root on Debian.
.PHONY: build check test torture fuzz demo bench install clean help

PREFIX = /usr/local
BINARY = target/x86_64-unknown-linux-gnu/release/hakuriver
TEST_THREADS = 4
# How long each part of `make torture` goes on, and each target of `make fuzz`.
MINUTES = 3
# What is tested has places at which it can be made to die; what is built has none.
FAULT_POINTS = --features fault-points
# rustup's own place, for shells that have not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

help:
	@echo 'make build            the static release binary: $(BINARY)'
	@echo 'make check            formatting, lints, the floors of the house'
	@echo 'make test             everything: check, unit tests, and the whole system on real Docker'
	@echo 'make torture MINUTES= faults one after the other: in simulated clusters, in a real one, at every step of a life (each $(MINUTES))'
	@echo 'make fuzz MINUTES=    made-up inputs for every reader of foreign bytes (each $(MINUTES))'
	@echo 'make demo             a VPS from submit to ssh, command by command'
	@echo 'make bench            speed and size, each figure beside its reference; target/bench.json'
	@echo 'make install PREFIX=  the binary and its hakuriver.* links (default $(PREFIX))'
	@echo 'make clean            what tests and demos left behind: containers, images, processes'\'' directories'

build:
	@scripts/setup.sh build
	cargo build --release --locked

check:
	@scripts/setup.sh check
	cargo fmt --all -- --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --test torture $(FAULT_POINTS) -- -D warnings
	cargo test --locked --quiet $(FAULT_POINTS) --test it floors::

test: check build
	@scripts/setup.sh test
	@scripts/test-image.sh
	@scripts/systemd-image.sh
	cargo test --locked --quiet $(FAULT_POINTS) --lib --bins
	cargo test --locked $(FAULT_POINTS) --test it -- --test-threads=$(TEST_THREADS)
	MINUTES=3 cargo test --locked $(FAULT_POINTS) --test torture

torture: build
	@scripts/setup.sh test
	@scripts/test-image.sh
	HAKURIVER_MODEL_MINUTES=$(MINUTES) cargo test --locked $(FAULT_POINTS) --lib model:: -- --nocapture
	MINUTES=$(MINUTES) cargo test --locked $(FAULT_POINTS) --test torture
	HAKURIVER_WALK_MINUTES=$(MINUTES) cargo test --locked $(FAULT_POINTS) --test it -- --ignored --nocapture crash_walk::

fuzz:
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(MINUTES)

demo: build
	@scripts/setup.sh test
	@scripts/test-image.sh
	@scripts/demo.sh $(BINARY)

bench: build
	@scripts/setup.sh bench
	@scripts/test-image.sh
	cargo bench --locked --bench bench

install: build
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/hakuriver
	$(DESTDIR)$(PREFIX)/bin/hakuriver init links --dir $(DESTDIR)$(PREFIX)/bin

clean:
	@scripts/clean.sh
