# slate_cache: builds and installs with PGXS (make, make install), tests and
# shows itself on private servers (make test, make demo).  `make help` lists
# the targets.  The version stands in slate_cache.control, META.json, CHANGELOG.md
# and the name of the SQL script.

EXTENSION = slate_cache
MODULE_big = slate_cache
DATA = $(wildcard sql/slate_cache--*.sql)
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

PG_CPPFLAGS = -Isrc
SHLIB_LINK = -lhiredis

# TLS comes from the library that the server itself is linked with.
SHLIB_LINK += $(if $(filter openssl,$(with_ssl)),-lssl -lcrypto)

# The server's headers leave parameters unused, and its macros mix signs.
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare

# Calls within the library go straight to their target, others past the PLT: a
# backend that comes back to cold caches pays for each detour.
ifeq ($(shell uname -s),Linux)
PG_CFLAGS += -fno-semantic-interposition -fno-plt
SHLIB_LINK += -Wl,-Bsymbolic
endif

# TESTING=1 compiles the points at which isolation and TAP tests stop a session.
ifdef TESTING
PG_CPPFLAGS += -DSLATE_CACHE_TESTING
endif

# Bitcode for JIT inlining buys nothing here and would need clang.
override with_llvm := $(or $(with_llvm),no)

# Tests drop the extension, stop servers, and need builds of their own: see test/run.
NO_INSTALLCHECK = 1

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

# On a fresh machine there is no PGXS yet: the targets below install it.
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
else
all install uninstall clean:
	@echo "$@ needs PostgreSQL's server development files (on Debian 12: postgresql-server-dev-15, on 13: -17), or PG_CONFIG=/path/to/pg_config" >&2
	@exit 1
endif

# PGXS does not know which headers an object was compiled with.
$(OBJS): $(wildcard src/*.h)

# installcheck does not look at what is installed: tests have private builds.
test installcheck:
	@bash test/run

demo:
	@bash test/demo/run

fuzz:
	@$(MAKE) -C test/fuzz check

soak:
	@bash test/soak

check-history:
	@bash test/history/run

model:
	@$(MAKE) -C test/model large

mutants:
	@bash test/mutants

versions:
	@bash test/versions

bench:
	@bash test/bench/run

instructions:
	@bash test/bench/instructions

indent:
	@bash test/lib/indent src/*.[ch]

help:
	@echo "make            builds the extension (TESTING=1: with the tests' pause points)"
	@echo "make install    installs it into the PostgreSQL of PG_CONFIG"
	@echo "make test       installs what is missing, runs every test on private servers"
	@echo "                ONLY=unit|model|regress|isolation|tap  T=name  KEEP=1  ACCEPT=1"
	@echo "make demo       shows the main job on private servers (KEEP=1 leaves them up)"
	@echo "make fuzz       runs the parsers' unit and fuzz tests alone"
	@echo "make soak       a load, random faults, and a comparison of every key (MINUTES=10  SEED=n)"
	@echo "make check-history  writers, readers, faults, and a judge of every read"
	@echo "                MODE=commit|strict|async  SECONDS=60  READS=n  FAULTS=a,b  NAIVE=1  SEED=n"
	@echo "make model      explores the protocol in every order of its steps, with larger bounds"
	@echo "make mutants    switches each mechanism off and sees its tests fail (long)"
	@echo "make versions   make test and make demo on bare Debian 12, 13 and testing (root; long)"
	@echo "                SUITES='bookworm trixie forky'"
	@echo "make bench      measures it beside what one would use instead; tables, and plots in test/bench/plots"
	@echo "                BENCH=floor,writes,tcp,reads,mget  ROUNDS=7  CLIENTS=1,8,32"
	@echo "                SECONDS_PER_ROUND=0.5  ONLY_CANDIDATES=a,b  FSYNC=on  SEED=n  KEEP=1"
	@echo "make instructions  counts the instructions of the hot paths, compares with those noted"
	@echo "                ONLY='a;b'  N=300  PROFILE=name  ACCEPT=1  KEEP=1"
	@echo "make indent     indents src/ with pg_bsd_indent"

.PHONY: test demo fuzz soak check-history model mutants versions bench instructions indent help installcheck
.DEFAULT_GOAL := all
