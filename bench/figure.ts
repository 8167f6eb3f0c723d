/** One measured value. `bare` is the same work without Holdfast in the same run, or null where there is none. */
export interface Figure {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly bare: number | null
  readonly ratio: number | null
  /** In words, as the requirement has it. */
  readonly target: string
  readonly ok: boolean
}

export interface BenchOptions {
  /** Shorter where a bench is long; its figures say how long it was. */
  readonly quick: boolean
}

/** A value with a bound of its own. */
export function atMost(name: string, value: number, unit: string, limit: number, bare: number | null = null): Figure {
  const ratio = bare === null ? null : round(value / bare, 3)
  return { name, value: round(value), unit, bare: rounded(bare), ratio, target: `<= ${limit}`, ok: value <= limit }
}

/** The same with a bound from below. */
export function atLeast(name: string, value: number, unit: string, limit: number): Figure {
  const target = `>= ${limit}`
  return { name, value: round(value), unit, bare: null, ratio: null, target, ok: value >= limit }
}

/** A value that is there to read the others by. */
export function told(name: string, value: number, unit: string, why: string, bare: number | null = null): Figure {
  const ratio = bare === null ? null : round(value / bare, 3)
  return { name, value: round(value), unit, bare: rounded(bare), ratio, target: `no target: ${why}`, ok: true }
}

export function exactly(name: string, value: number, unit: string, wanted: number): Figure {
  return { name, value, unit, bare: null, ratio: null, target: `exactly ${wanted}`, ok: value === wanted }
}

/** A value that is judged by its ratio to the bare one. */
export function comparedTo(
  name: string,
  { value, bare, unit }: { readonly value: number; readonly bare: number; readonly unit: string },
  bound: { readonly atLeast: number } | { readonly atMost: number },
): Figure {
  const ratio = value / bare
  const [target, ok] =
    'atLeast' in bound ? [`>= ${bound.atLeast}`, ratio >= bound.atLeast] : [`<= ${bound.atMost}`, ratio <= bound.atMost]
  return { name, value: round(value), unit, bare: round(bare), ratio: round(ratio, 3), target: `ratio ${target}`, ok }
}

/** The least of the values that at least this share of all values does not exceed. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  const value = sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)]
  if (value === undefined) throw new Error('a percentile of nothing')
  return value
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5)
}

function rounded(value: number | null): number | null {
  return value === null ? null : round(value)
}

export function round(value: number, digits = 2): number {
  return Number(value.toFixed(digits))
}
