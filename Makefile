# Two commands do all the set-up: `make demo` and `make test`. Both make .venv first where it is missing.
# `make RPC=1` builds llama.cpp with its RPC backend, for models that are spread over several machines.
PYTHON ?= python3
RPC ?=
BIN := .venv/bin
DEMO := build/bq-demo-Q4_K_M.gguf

.PHONY: demo test test-gpu lint types screenshots venv clean

demo: venv
	@mkdir -p build
	@echo "\$$ bq convert demo -q Q4_K_M -o $(DEMO) --force"
	@$(BIN)/bq convert demo -q Q4_K_M -o $(DEMO) --force
	@echo; echo "\$$ bq run -m $(DEMO) \"What is Q4_K_M?\""
	@$(BIN)/bq run -m $(DEMO) --greedy --stats "What is Q4_K_M?" < /dev/null
	@echo; echo "\$$ bq run -m $(DEMO) \"Base、Chat 和 Instruct 有什么区别？\""
	@$(BIN)/bq run -m $(DEMO) --greedy --stats "Base、Chat 和 Instruct 有什么区别？" < /dev/null
	@echo; echo "Go on with it: .venv/bin/bq chat -m $(DEMO)"

# What is compiled is kept, or every process of the suite would compile the sources anew where that is switched off.
test: venv
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

# What a GPU computes, against the processor; the suite above sees none.
test-gpu: venv
	BQ_TEST_GPU=1 $(BIN)/python -m pytest -q tests/runtime/test_gpu.py

lint: venv
	$(BIN)/ruff check .

types: venv
	MYPYPATH=.venv/typing $(BIN)/mypy -p bq.runtime -p bq.convert -p bq.library -p bq.tui -m bq.demo.corpus

screenshots: $(DEMO)
	$(BIN)/python tools/screenshots.py $(DEMO)

$(DEMO): | venv
	@mkdir -p build
	$(BIN)/bq convert demo -q Q4_K_M -o $(DEMO) --force

venv:
	@RPC=$(RPC) $(PYTHON) tools/make_venv.py

clean:
	rm -rf build .venv *.egg-info
