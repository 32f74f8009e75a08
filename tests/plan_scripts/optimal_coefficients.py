# The plan's own script: step 4.1, the optimal coefficients.
# Taken from experiment_plan.md as it is there, without the shell's quoting, and kept as it is, with its
# known faults (see tests/interop/test_plan_scripts.py): what it is right about our answers must agree with.
import json
from pathlib import Path

configs = [
    ('gemma-3-4b', 'instruct', ['response__5', 'response__10', 'response__20']),
    ('gemma-2-2b', 'gemma2_instruct', ['response__5', 'response__10', 'response__20']),
]

print('Optimal Coefficients (coherence ≥68%)')
print('=' * 70)
print(f"{'Model':<12} {'Position':<12} {'Method':<20} {'Coef':>8} {'Δ':>8}")
print('-' * 70)

for model, variant, positions in configs:
    for pos_dir in positions:
        results_file = Path(f'experiments/massive-activations/steering/chirp/refusal/{variant}/{pos_dir}/steering/results.jsonl')
        if not results_file.exists():
            continue

        baseline = 0
        method_best = {}

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
                        if method not in method_best or delta > method_best[method]['delta']:
                            method_best[method] = {'delta': delta, 'coef': cfg['weight']}

        pos_name = pos_dir.replace('response__', '[:') + ']'
        for method in ['probe', 'mean_diff', 'probe_top1', 'mean_diff_top1']:
            if method in method_best:
                r = method_best[method]
                print(f"{model:<12} {pos_name:<12} {method:<20} {r['coef']:>8.0f} {r['delta']:>+7.1f}")
