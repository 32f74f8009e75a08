# The plan's own script: checkpoint after phase 2, clean-before against clean-after.
# Taken from experiment_plan.md as it is there, without the shell's quoting, and kept as it is, with its
# known faults (see tests/interop/test_plan_scripts.py): what it is right about our answers must agree with.
import json
from pathlib import Path

results_file = Path('experiments/massive-activations/steering/chirp/refusal/instruct/response__5/steering/results.jsonl')

baseline = 0
comparisons = {}

with open(results_file) as f:
    for line in f:
        entry = json.loads(line)
        if entry.get('type') == 'baseline':
            baseline = entry['result'].get('trait_mean', 0)
        elif 'config' in entry and 'result' in entry:
            cfg = entry['config']['vectors'][0]
            res = entry['result']
            method = cfg['method']

            if res['coherence_mean'] >= 68:
                delta = res['trait_mean'] - baseline
                if method not in comparisons or delta > comparisons[method]['delta']:
                    comparisons[method] = {
                        'trait': res['trait_mean'],
                        'delta': delta,
                        'coh': res['coherence_mean']
                    }

print('Clean-before vs Clean-after (coherence ≥68%):')
print(f"{'Method':<20} {'Δ':>8} {'Coh':>8}")
print('-' * 40)

for method in ['probe', 'probe_cleaned', 'probe_preclean', 'mean_diff', 'mean_diff_cleaned', 'mean_diff_preclean']:
    if method in comparisons:
        r = comparisons[method]
        print(f"{method:<20} {r['delta']:>+7.1f} {r['coh']:>7.1f}%")
