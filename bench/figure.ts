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

export function atMost(name: string, value: number, unit: string, limit: number): Figure {
  return { name, value, unit, bare: null, ratio: null, target: `<= ${limit}`, ok: value <= limit }
}
