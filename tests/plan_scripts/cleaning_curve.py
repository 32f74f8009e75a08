# The plan's own script: checkpoint after phase 3, the cleaning curve.
# Taken from experiment_plan.md as it is there, without the shell's quoting, and kept as it is, with its
# known faults (see tests/interop/test_plan_scripts.py): what it is right about our answers must agree with.
import json
from pathlib import Path

results_file = Path('experiments/massive-activations/steering/chirp/refusal/instruct/response__5/steering/results.jsonl')

baseline = 0
cleaning_curve = {}

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
                if method not in cleaning_curve or delta > cleaning_curve[method]:
                    cleaning_curve[method] = delta

print('Cleaning curve (mean_diff, coherence ≥68%):')
for method in ['mean_diff', 'mean_diff_top1', 'mean_diff_top2', 'mean_diff_top3', 'mean_diff_top5', 'mean_diff_cleaned']:
    if method in cleaning_curve:
        dims = {'mean_diff': 0, 'mean_diff_top1': 1, 'mean_diff_top2': 2, 'mean_diff_top3': 3, 'mean_diff_top5': 5, 'mean_diff_cleaned': 13}
        print(f"  {dims.get(method, '?'):>2} dims: {cleaning_curve[method]:>+6.1f}")
