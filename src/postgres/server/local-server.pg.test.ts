import { expect, inject, test } from 'vitest'
test('x', () => {
  expect(inject('postgres').version).toMatch(/^18/)
})
